"""Registered models of an MLflow store: one a model and split, a version a Pareto-best point.

What a version holds lies among the artefacts of the point's run, in `model/`: the codec's folder,
its card, and an MLmodel file with the signature.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlflow import pyfunc
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from splitcodec import __version__
from splitcodec.tracking.store import DIGEST, KEY, RESULTS, Store
from splitcodec.tracking.versions import WantedVersion

EXPERIMENT = "splitcodec.experiment"
_PLACE = "model"
_ALIASES = "best-at-"

_NOTE = """\
The codecs of {experiment} for one split that no other one beats: each version has fewer bits or a
lower perplexity than any other. `best-at-2-percent` and its like name the cheapest one that raises
perplexity by at most so much. `mlflow.pyfunc.load_model` gives a codec whose `predict` sends a
representation (tokens, channels) through its bytes.
"""


class Registry:
    """Those registered models of a store that belong to an experiment.

    `runs` are the run ids of the points that `store` shows.
    """

    def __init__(self, store: Store, experiment: str, runs: dict[str, str]) -> None:
        self._client, self._experiment, self._results = store.client, experiment, store.results
        self._runs = runs
        former = {run.info.run_id for run in store.runs.values()}
        self._our_runs = former | set(runs.values())

    def show(self, wanted: list[WantedVersion]) -> None:
        """Make the versions as wanted, and delete all others of this directory."""
        present = {name: self._versions(name) for name in self._registered()}
        for name in dict.fromkeys(version.model for version in wanted):
            if name not in present:
                note = _NOTE.format(experiment=self._experiment)
                tags = {EXPERIMENT: self._experiment}
                self._client.create_registered_model(name, tags, note)
        for name in {version.model for version in wanted} | present.keys():
            ours = [version for version in wanted if version.model == name]
            self._show_model(name, ours, present.get(name, []))

    def _registered(self) -> list[str]:
        tagged = f"tags.`{EXPERIMENT}` = '{self._experiment}'"
        found = self._client.search_registered_models(tagged, max_results=1000)
        return [model.name for model in found]

    def _versions(self, name: str) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{name}'"))

    def _show_model(
        self, name: str, wanted: list[WantedVersion], present: list[ModelVersion]
    ) -> None:
        ours = [version for version in present if self._is_ours(version)]
        known = {self._identity(version): version for version in ours}
        kept, aliases = set(), {}
        for version in wanted:
            identity = (version.key, self._runs[version.key], version.digest)
            number = known[identity].version if identity in known else self._add(version)
            kept.add(str(number))
            aliases |= dict.fromkeys(version.aliases, str(number))
        self._name(name, aliases)
        for version in ours:
            if str(version.version) not in kept:
                self._client.delete_model_version(name, version.version)
        if not wanted and len(ours) == len(present):
            self._client.delete_registered_model(name)

    def _is_ours(self, version: ModelVersion) -> bool:
        # A directory that was moved is known by its runs.
        return version.tags.get(RESULTS) == self._results or version.run_id in self._our_runs

    def _identity(self, version: ModelVersion) -> tuple[str | None, ...]:
        return version.tags.get(KEY), version.run_id, version.tags.get(DIGEST)

    def _name(self, name: str, wanted: dict[str, str]) -> None:
        """Make our aliases point to the versions wanted."""
        aliases = self._client.get_registered_model(name).aliases
        present = {alias: str(number) for alias, number in aliases.items()}
        for alias in present.keys() - wanted.keys():
            if alias.startswith(_ALIASES):
                self._client.delete_registered_model_alias(name, alias)
        for alias, number in wanted.items():
            if present.get(alias) != number:
                self._client.set_registered_model_alias(name, alias, number)

    def _add(self, version: WantedVersion) -> str:
        """A new version; it is registered last, so that after a kill all is done again."""
        run = self._runs[version.key]
        with TemporaryDirectory() as folder:
            write_model(version, Path(folder))
            self._client.log_artifacts(run, folder, _PLACE)
        place = f"{self._client.get_run(run).info.artifact_uri}/{_PLACE}"
        own = {KEY: version.key, RESULTS: self._results, DIGEST: version.digest}
        made = self._client.create_model_version(
            version.model, place, run, version.tags | own, description=version.card
        )
        return str(made.version)


def write_model(version: WantedVersion, folder: Path) -> None:
    """Write a folder that MLflow takes for a model: the codec, its card, MLmodel."""
    (folder / "codec").mkdir()
    for path in version.files:
        (folder / "codec" / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text(version.card, encoding="utf-8")
    representation = TensorSpec(np.dtype("float32"), (-1, version.codec["channels"]))
    model = Model(signature=ModelSignature(Schema([representation]), Schema([representation])))
    model.add_flavor("splitcodec", codec="codec", splitcodec_version=__version__)
    if version.stands_alone and len(version.files) > 1:
        coder = {"coder": version.row["coder"]}
        loader = "splitcodec.tracking.loader"
        pyfunc.add_to_model(model, loader, data="codec", model_config=coder)
    model.save(str(folder / "MLmodel"))
