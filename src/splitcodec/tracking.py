"""MLflow as a view of the artefacts: what the table of points says, browsable and comparable.

One experiment; a parent run a curve (model, split, codec), a child run a point. Nothing is computed
here that is not in the artefacts, so the store may be deleted at any time and made again. Each run
carries the key of what it shows and digests of what was written, so a rerun, even after a kill,
continues its runs: unchanged ones are left alone, changed ones updated, vanished ones deleted.
"""

import hashlib
import json
import logging
import os
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from splitcodec.errors import InputError
from splitcodec.files import read_json, sha256_of_file, write_json
from splitcodec.report.curves import ANCHOR_POINT, Comparison, Curve, compare
from splitcodec.report.figures import styles_of
from splitcodec.report.table import COLUMNS, NUMBER, perplexity_increase, read_points
from splitcodec.tracking_views import page, views

DEFAULT_URI = "sqlite:///mlflow.db"
GOOD_ENOUGH = 5.0
"""Percent of perplexity that the point shown by a parent run may lose."""

KEY, RESULTS = "splitcodec.key", "splitcodec.results"
FIXED, _DIGEST, LIVE = "splitcodec.fixed", "splitcodec.digest", "splitcodec.live"
QUEUE = "mlflow-queue"
"""Directory, in that of the results, of points that wait for the store."""

_PARENT, _NOTE, _COLOUR = "mlflow.parentRunId", "mlflow.note.content", "mlflow.runColor"
_METRICS = [c.name for c in COLUMNS if c.dtype == NUMBER and c.name != "lambda"]
_METRICS.append("perplexity_increase_percent")
_PARAMETERS = ("model", "split", "codec", "coder", "mode", "lambda", "seed", "partition")
_TAGS = ("data_hash", "git_commit", "hardware")
_BATCH = 900  # MLflow takes at most 1,000 metrics at once

_EXPERIMENT_NOTE = """\
Rate and distortion of split inference. One parent run a curve, one child run a point.

- `bits_per_token_file`: the whole container file, what a point costs
- `perplexity`, `perplexity_increase_percent`: of the model on what a fresh process decoded
- cross-entropy and `kl` are in nats per token, rates in bits per token, times in ms per token

A parent run shows the cheapest point of its curve within +5 % perplexity, or else the point of the
lowest perplexity. **Views** (top right) has a table of curves and, for each split, charts to open
with the chart button. The rate-distortion figure is in `figures/` among a parent run's artifacts.
"""


History = tuple[tuple[str, float, int], ...]


@dataclass(frozen=True)
class WantedRun:
    """What a run should show, in MLflow's terms.

    `history` is (metric, value, step); `seconds` is what the page shows as the run's duration.
    """

    key: str
    name: str
    model: str
    split: int
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    parent: str | None = None
    history: History = ()
    artefacts: tuple[Path, ...] = ()
    seconds: float = 0.0

    @property
    def fixed(self) -> str:
        """Digest of parameters and training history, which MLflow cannot take back."""
        return _digest(self.parameters, self.history)

    @property
    def digest(self) -> str:
        """Digest of everything else."""
        files = [(path.name, sha256_of_file(path)) for path in self.artefacts]
        return _digest(self.name, self.metrics, self.tags, self.seconds, files)


def track(
    experiment: str,
    points: Path,
    figures: list[Path],
    trainings: list[Path],
    runs: Path,
    tracking_uri: str | None = None,
    later: bool = False,
) -> None:
    """Make the MLflow experiment `experiment` show the table `points`; record run ids in `runs`.

    `figures` are what `figures.draw` returned; each parent run gets those of its model and split.
    `trainings` are training.jsonl files, each beside its codec.json. The store is `tracking_uri`,
    else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db. Raises InputError if it cannot be used, or
    with `later` notes so in `runs`: the artefacts hold all, and `splitcodec track sync` sends it.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    shown = re.sub(r"(://[^:/@]*):[^/@]*@", r"\1:***@", uri)  # passwords stay out of artefacts
    wanted = wanted_runs(read_points(points), figures, trainings)
    quieten()
    try:
        store = Store(uri, shown, experiment, runs)
        ids = store.show(wanted)
        store.save_views(views(dict.fromkeys((run.model, run.split) for run in wanted)))
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        reason = " ".join(str(error).replace(uri, shown).split())
        if later:
            former = read_json(runs) if runs.exists() else {"runs": {}}
            write_json(runs, former | {"tracking_uri": shown, "waits": f"{reason:.160}"})
            print(f"MLflow cannot be reached; later: splitcodec track sync {runs.parent}")
            return
        raise InputError(
            f"MLflow cannot use {shown} ({reason:.160}); check MLFLOW_TRACKING_URI, or move that "
            "store away and rerun"
        ) from None
    for key in ids:
        queue_of(runs.parent, key).unlink(missing_ok=True)
    record = {"tracking_uri": shown, "experiment": experiment, "experiment_id": store.experiment}
    write_json(runs, record | _how_to_open(shown, store.experiment) | {"runs": ids})


def sync(results: Path, tracking_uri: str | None = None, later: bool = False) -> None:
    """Make MLflow show the results/<experiment> directory, of which nothing else is needed."""
    figures = sorted((results / "figures").glob("*"))
    trainings = sorted(results.glob("codecs/*/*/*/*/training.jsonl"))
    record = results / "mlflow-runs.json"
    arguments = (results.name, results / "points.parquet", figures, trainings, record)
    track(*arguments, tracking_uri, later)


def queue_of(results: Path, key: str) -> Path:
    """Where the points of the run `key` wait for the store."""
    return results / QUEUE / f"{key}.jsonl"


def _how_to_open(uri: str, experiment: str) -> dict[str, str | None]:
    """The command that serves the store, if it needs one, and the address of its runs."""
    if uri.startswith(("http://", "https://")):
        return {"command": None, "page": page(uri, experiment)}
    command = f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return {"command": command, "page": page("http://127.0.0.1:5000", experiment)}


def wanted_runs(table: pd.DataFrame, figures: list[Path], trainings: list[Path]) -> list[WantedRun]:
    """The runs that show `table`: each parent, then its children, in the order to be listed."""
    table = table.assign(perplexity_increase_percent=perplexity_increase(table))
    trained = dict(_trainings(trainings))
    name_model, name_seed = table["model"].nunique() > 1, table["seed"].nunique() > 1
    styles = styles_of(table)
    wanted = []
    for item in compare(table):
        colour = {_COLOUR: styles[item.curve.name].colour}
        place = f"{item.curve.model}/" if name_model else ""
        place += f"split{item.curve.split}"
        parent = _parent(item, f"{place}/{item.curve.name}", figures)
        wanted.append(replace(parent, tags=parent.tags | colour))
        rows = item.curve.points.sort_values(["lambda", "seed", "bits_per_token_file"])
        for row in rows.to_dict("records"):
            hyperparameters, history = trained.get(_place(row), ({}, ()))
            child = _child(item.curve, row, place, name_seed)
            parameters = child.parameters | hyperparameters
            tags = child.tags | colour
            wanted.append(replace(child, parameters=parameters, tags=tags, history=history))
    return wanted


def _curve_key(curve: Curve) -> str:
    return f"{curve.model}/split{curve.split}/{curve.name}"


def _parent(item: Comparison, name: str, figures: list[Path]) -> WantedRun:
    """The run of a curve, with the metrics of its best point and the comparison with int + zstd."""
    curve, best = item.curve, _best(item.curve)
    metrics = _metrics(best)
    if item.bd:
        metrics["bd_rate_percent_vs_int_zstd"] = item.bd.percent
    if item.ratio and ANCHOR_POINT in item.ratio.at_points:
        metrics["rate_ratio_to_int4_zstd"] = item.ratio.at_points[ANCHOR_POINT]
    parameters = {"model": curve.model, "split": str(curve.split), "curve": curve.name}
    note = f"Best point within +{GOOD_ENOUGH:.0f} % perplexity: {_said(best)}.\n\n{_listing(curve)}"
    return WantedRun(
        key=_curve_key(curve),
        name=name,
        model=curve.model,
        split=curve.split,
        parameters=parameters | {"codec": best["codec"], "coder": best["coder"]},
        metrics=metrics,
        tags=parameters | _tags(best) | {"level": "curve", _NOTE: note},
        seconds=float(curve.points["train_seconds"].sum()),
        artefacts=tuple(f for f in figures if f.stem == f"rd-{curve.model}-split{curve.split}"),
    )


def _child(curve: Curve, row: dict[str, Any], place: str, name_seed: bool) -> WantedRun:
    """The run of a point; its name says all, because charts show it without its parent."""
    name, seed = point_name(row), point_seed(row)
    parameters = {name: row[name] for name in _PARAMETERS if pd.notna(row[name])}
    if "lambda" in parameters:
        parameters["lambda"] = _decimal(row["lambda"])
    places = {name: str(row[name]) for name in ("model", "split", "codec", "codec_hash")}
    return WantedRun(
        key=f"{_curve_key(curve)}/{name}{seed}",
        name=f"{place}/{name}{seed if name_seed else ''}",
        model=curve.model,
        split=curve.split,
        parameters={name: str(value) for name, value in parameters.items()},
        metrics=_metrics(row),
        tags=places | _tags(row) | {"level": "point", _NOTE: f"{_said(row)}."},
        parent=_curve_key(curve),
        seconds=row["train_seconds"],
    )


def point_name(row: dict[str, Any]) -> str:
    """What a point is called among those of its split."""
    if pd.isna(row["lambda"]):
        return f"{row['codec']} + {row['coder']}"
    return f"{row['codec']} λ={_decimal(row['lambda'])}"


def point_seed(row: dict[str, Any]) -> str:
    """The addition that tells seeds apart."""
    return "" if pd.isna(row["seed"]) else f" seed={row['seed']}"


def _best(curve: Curve) -> dict[str, Any]:
    """The cheapest point that is good enough, else the one of the lowest perplexity."""
    good = curve.points[curve.points["perplexity_increase_percent"] <= GOOD_ENOUGH]
    by = "bits_per_token_file" if len(good) else "perplexity"
    return (good if len(good) else curve.points).sort_values(by).iloc[0].to_dict()


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    return {name: float(row[name]) for name in _METRICS if pd.notna(row[name])}


def _tags(row: dict[str, Any]) -> dict[str, str]:
    source = {"mlflow.source.name": "splitcodec", "mlflow.source.git.commit": row["git_commit"]}
    return {name: row[name] for name in _TAGS} | source


def _decimal(value: float) -> str:
    """Without an exponent, so that names sort by value: 0.00003, not 3e-05."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _said(row: dict[str, Any]) -> str:
    return (
        f"{point_name(row)}: {row['bits_per_token_file']:,.1f} bits per token (file), perplexity "
        f"{row['perplexity']:,.2f} ({row['perplexity_increase_percent']:+.1f} %)"
    )


def _listing(curve: Curve) -> str:
    """The points as a Markdown list, cheapest first."""
    rows = curve.points.sort_values("bits_per_token_file").to_dict("records")
    return "\n".join(f"- {_said(row)}" for row in rows)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """What names a learned codec, in a row of the table as in codec.json."""
    values = (row[name] for name in ("model", "split", "codec", "lambda", "seed"))
    return tuple(None if pd.isna(value) else value for value in values)


def _trainings(paths: list[Path]) -> Iterator[tuple[tuple, tuple[dict[str, str], tuple]]]:
    """Hyper-parameters and step metrics of each trained codec, by `_place`."""
    for path in paths:
        codec = read_json(path.with_name("codec.json"))
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            history = tuple(metric for line in lines for metric in history_of(line))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); train that codec again") from None
        hyperparameters = {f"codec.{k}": str(v) for k, v in codec["hyperparameters"].items()}
        hyperparameters |= {f"tuning.{k}": str(v) for k, v in codec.get("tuning", {}).items()}
        yield _place(codec | {"codec": codec["name"]}), (hyperparameters, history)


def history_of(entry: dict[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(metric, value, step) of an entry of the training log."""
    for name, value in entry.items():
        if name not in ("phase", "step") and value is not None:
            yield f"training/{entry['phase']}_{name}", float(value), int(entry["step"])


def quieten() -> None:
    """Keep MLflow's own notes out of our logs, and its patience short."""
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # MLflow's own seven retries keep a mistyped address silent for four minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


def _dataset(run: WantedRun) -> DatasetInput:
    """The text that was evaluated, by its hash."""
    digest, partition = run.tags["data_hash"], run.parameters.get("partition", "evaluation")
    source = json.dumps({"data_hash": digest})
    dataset = Dataset(partition, digest[:36], "code", source)  # MLflow's digests end there
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """The experiment in an MLflow store, and those of its runs that show one results directory."""

    def __init__(self, uri: str, shown: str, experiment: str, record: Path) -> None:
        self.client = MlflowClient(tracking_uri=uri)
        self.results = str(record.parent.resolve())
        self.experiment = self._experiment(experiment)
        self.runs: dict[str, Run] = {}
        self._doubles: list[Run] = []  # a server that dies while it answers is asked again
        for key, run in self._known(record, shown):
            if key in self.runs:
                self._doubles.append(run)
            self.runs.setdefault(key, run)

    def show(self, wanted: list[WantedRun]) -> dict[str, str]:
        """Make the runs as wanted; returns the run id of each key."""
        ids: dict[str, str] = {}
        now = round(time.time() * 1000)
        for number, run in enumerate(wanted):
            # The run list shows the newest first, so the first of ours starts last.
            started = now + len(wanted) - number
            ids[run.key] = self._show(run, ids.get(run.parent), started)
        for key, run in self.runs.items():
            if key not in ids:
                self.client.delete_run(run.info.run_id)
        for run in self._doubles:
            self.client.delete_run(run.info.run_id)
        return ids

    def save_views(self, tags: dict[str, str]) -> None:
        """Save views of the runs page, unless they are there already."""
        present = self.client.get_experiment(self.experiment).tags
        for key, value in tags.items():
            if present.get(key) != value:
                self.client.set_experiment_tag(self.experiment, key, value)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                identity = self.client.create_experiment(name)
            except MlflowException:  # another worker was first
                if (found := self.client.get_experiment_by_name(name)) is None:
                    raise
                return found.experiment_id
            # Without its kind the page asks the user what sort of experiment this is.
            kind = ("mlflow.experimentKind", "custom_model_development")
            for key, value in (kind, (_NOTE, _EXPERIMENT_NOTE)):
                self.client.set_experiment_tag(identity, key, value)
            return identity
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _known(self, record: Path, uri: str) -> Iterator[tuple[str, Run]]:
        """Our runs by key: those on record, and those of this directory that are not (a kill)."""
        recorded = set()
        if record.exists() and (former := read_json(record)).get("tracking_uri") == uri:
            recorded = set(former.get("runs", {}).values())
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                ours = run.info.run_id in recorded or tags.get(RESULTS) == self.results
                if ours and KEY in tags:
                    yield tags[KEY], run
            if not (token := page.token):
                return

    def _show(self, run: WantedRun, parent: str | None, started: int) -> str:
        tags = run.tags | {KEY: run.key} | ({_PARENT: parent} if parent else {})
        run = replace(run, tags=tags)
        if (known := self.runs.get(run.key)) is not None:
            run_id, written = known.info.run_id, known.data.tags
            if LIVE in written and FIXED not in written:
                self._write(known, run, first=True, history=self._unsent(run_id, run))
                return run_id
            if written.get(FIXED) == run.fixed:
                if written.get(RESULTS) != self.results:  # the directory was moved
                    self.client.set_tag(run_id, RESULTS, self.results)
                if written.get(_DIGEST) != run.digest:
                    self._write(known, run, first=False)
                return run_id
            self.client.delete_run(run_id)
        tags = run.tags | {RESULTS: self.results}
        created = self.client.create_run(self.experiment, started, tags, run.name)
        self._write(created, run, first=True)
        return created.info.run_id

    def _unsent(self, run_id: str, run: WantedRun) -> History:
        """What of the history a live run has not shown: it was not reached, or was killed."""
        names = {name for name, *_ in run.history}
        logged = (m for name in names for m in self.client.get_metric_history(run_id, name))
        shown = {(metric.key, metric.step) for metric in logged}
        return tuple(item for item in run.history if (item[0], item[2]) not in shown)

    def _write(
        self, target: Run, run: WantedRun, first: bool, history: History | None = None
    ) -> None:
        """Log all of `run`, or of its history only what is given.

        Its digests come last, so that a kill before them means: write again.
        """
        run_id = target.info.run_id
        now = round(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in run.metrics.items()]
        if first:
            told = run.history if history is None else history
            metrics += [Metric(name, value, now, step) for name, value, step in told]
            self.client.log_inputs(run_id, datasets=[_dataset(run)])
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        for path in run.artefacts:
            self.client.log_artifact(run_id, str(path), "figures")
        parameters = [Param(name, value) for name, value in run.parameters.items()] if first else []
        tags = run.tags | {FIXED: run.fixed, _DIGEST: run.digest, "mlflow.runName": run.name}
        self.client.log_batch(
            run_id, params=parameters, tags=[RunTag(name, value) for name, value in tags.items()]
        )
        ended = target.info.start_time + round(1000 * run.seconds)
        self.client.set_terminated(run_id, end_time=ended)
