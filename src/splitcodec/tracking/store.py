"""The experiment in an MLflow store, and those of its runs that show one results directory."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from splitcodec.files import read_json
from splitcodec.tracking.wanted import NOTE, History, WantedRun, is_result

KEY, RESULTS = "splitcodec.key", "splitcodec.results"
FIXED, DIGEST, LIVE = "splitcodec.fixed", "splitcodec.digest", "splitcodec.live"

_PARENT = "mlflow.parentRunId"
BATCH = 900  # MLflow takes at most 1,000 metrics at once

_EXPERIMENT_NOTE = """\
Rate and distortion of split inference. One parent run a curve, one child run a point.

- `bits_per_token_file`: the whole container file, what a point costs
- `perplexity`, `perplexity_increase_percent`: of the model on what a fresh process decoded
- cross-entropy and `kl` are in nats per token, rates in bits per token, times in ms per token

A parent run shows the cheapest point of its curve within +5 % perplexity, or else the point of the
lowest perplexity. **Views** (top right) has a table of curves and, for each split, charts to open
with the chart button. The rate-distortion figure is in `figures/` among a parent run's artifacts.
"""


def quieten() -> None:
    """Keep MLflow's own notes out of our logs, and its patience short."""
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # MLflow's own seven retries keep a mistyped address silent for four minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


def without_password(text: str) -> str:
    """An address, or a message with one in it, as artefacts and logs may show it."""
    return re.sub(r"(://[^:/@\s]*):[^/@\s]*@", r"\1:***@", text)


class Store:
    """The experiment in an MLflow store, and those of its runs that show one results directory."""

    def __init__(self, uri: str, experiment: str, record: Path) -> None:
        self.client = MlflowClient(tracking_uri=uri)
        self.results = str(record.parent.resolve())
        self.experiment = self._experiment(experiment)
        self.runs: dict[str, Run] = {}
        self._doubles: list[Run] = []  # a server that dies while it answers is asked again
        for key, run in self._known(record, without_password(uri)):
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
            for key, value in (kind, (NOTE, _EXPERIMENT_NOTE)):
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
            # MLflow cannot take back a metric either.
            gone = set(filter(is_result, known.data.metrics)) - run.metrics.keys()
            if written.get(FIXED) == run.fixed and not gone:
                if written.get(RESULTS) != self.results:  # the directory was moved
                    self.client.set_tag(run_id, RESULTS, self.results)
                if written.get(DIGEST) != run.digest:
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
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        for path in run.artefacts:
            self.client.log_artifact(run_id, str(path), "figures")
        parameters = [Param(name, value) for name, value in run.parameters.items()] if first else []
        tags = run.tags | {FIXED: run.fixed, DIGEST: run.digest, "mlflow.runName": run.name}
        self.client.log_batch(
            run_id, params=parameters, tags=[RunTag(name, value) for name, value in tags.items()]
        )
        ended = target.info.start_time + round(1000 * run.seconds)
        self.client.set_terminated(run_id, end_time=ended)


def _dataset(run: WantedRun) -> DatasetInput:
    """The text that was evaluated, by its hash."""
    digest, partition = run.tags["data_hash"], run.parameters.get("partition", "evaluation")
    source = json.dumps({"data_hash": digest})
    dataset = Dataset(partition, digest[:36], "code", source)  # MLflow's digests end there
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])
