"""Trainings in MLflow while they go on; what the store does not take waits on disk.

Each entry is written to the run's queue, with its time, before it is sent. Sent again it is the
same row to MLflow, so that after a kill, or a lost answer, everything may be sent once more.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Self

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import SQLAlchemyError

from splitcodec.errors import reason_of
from splitcodec.tracking.store import (
    BATCH,
    FIXED,
    KEY,
    LIVE,
    RESULTS,
    Store,
    quieten,
    without_password,
)
from splitcodec.tracking.wanted import history_of, point_key, point_name, point_seed

QUEUE = "mlflow-queue"
"""Directory, in that of the results, of points that wait for the store."""

RETRY_SECONDS = 30.0
_MEASURED = "tokens_per_second"  # the one figure that a repeated step has anew


class LiveRun:
    """Shows a training in MLflow as it goes; `track` continues the same run when it is done.

    `point` has model, split, codec (its name), coder, lambda and seed, as a row of the table of
    points has them; `results` is the experiment's directory. The run starts with the first entry.
    Where the store cannot be reached, training goes on, and the entries wait in the queue. Between
    the first entry that is sent and the end of the `with` block the run also shows the load of the
    machine.
    """

    def __init__(self, point: dict[str, Any], results: Path, uri: str) -> None:
        self._key = point_key(point)
        self._name = f"split{point['split']}/{point_name(point)}{point_seed(point)}"
        self._results, self._uri = results, uri
        self._queue = queue_of(results, self._key)
        self._entries = _read(self._queue)
        self._metrics = [metric for line in self._entries.values() for metric in _metrics(line)]
        self._store: Store | None = None
        self._run: str | None = None
        self._machine: SystemMetricsMonitor | None = None
        self._sent = 0
        self._silent_until = 0.0
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._machine is not None:
            self._machine.finish()

    def __call__(self, entry: dict[str, Any]) -> None:
        """Note one entry of the training log, and send what waits."""
        line = {"time": round(time.time() * 1000), "entry": entry}
        known = self._entries.get(_step(entry))
        if known and _figures(known["entry"]) != _figures(entry):
            self._begin_again()  # another training of this name was killed
        if known is None or not self._entries:
            self._entries[_step(entry)] = line
            self._metrics += _metrics(line)
            self._queue.parent.mkdir(parents=True, exist_ok=True)
            with self._queue.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if time.monotonic() >= self._silent_until:
            self._send()

    def _begin_again(self) -> None:
        self._queue.unlink(missing_ok=True)
        self._entries, self._metrics, self._sent = {}, [], 0
        self.__exit__()
        self._store = self._run = self._machine = None

    def _send(self) -> None:
        try:
            if self._run is None:
                self._run = self._start()
                self._machine = self._watch_machine()
            while self._sent < len(self._metrics):
                batch = self._metrics[self._sent : self._sent + BATCH]
                self._store.client.log_batch(self._run, metrics=batch)
                self._sent += len(batch)
        except (MlflowException, SQLAlchemyError, ImportError) as error:
            self._silent_until = time.monotonic() + RETRY_SECONDS
            if not self._told:
                reason = reason_of(without_password(str(error)))
                told = f"MLflow does not show this training yet ({reason})"
                print(f"{told}; what it is to show waits in {self._queue}", file=sys.stderr)
                self._told = True

    def _start(self) -> str:
        """The id of the run: that of a training which was killed, or a new one."""
        quieten()
        record = self._results / "mlflow-runs.json"
        self._store = Store(self._uri, self._results.name, record)
        client = self._store.client
        if (known := self._store.runs.get(self._key)) is not None:
            if LIVE in known.data.tags and FIXED not in known.data.tags and len(self._entries) > 1:
                return known.info.run_id
            client.delete_run(known.info.run_id)
        tags = {KEY: self._key, RESULTS: self._store.results, LIVE: "true"}
        started = round(time.time() * 1000)
        created = client.create_run(self._store.experiment, started, tags, self._name)
        return created.info.run_id

    def _watch_machine(self) -> SystemMetricsMonitor:
        monitor = SystemMetricsMonitor(self._run, resume_logging=True, tracking_uri=self._uri)
        monitor.start()
        return monitor


def queue_of(results: Path, key: str) -> Path:
    """Where the points of the run `key` wait for the store."""
    return results / QUEUE / f"{key}.jsonl"


def _read(queue: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of a queue by phase and step; the last may have been cut by a kill."""
    entries = {}
    for text in queue.read_text(encoding="utf-8").splitlines() if queue.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        entries[_step(line["entry"])] = line
    return entries


def _step(entry: dict[str, Any]) -> tuple[str, int]:
    return entry["phase"], entry["step"]


def _figures(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != _MEASURED}


def _metrics(line: dict[str, Any]) -> list[Metric]:
    told = history_of(line["entry"])
    return [Metric(name, value, line["time"], step) for name, value, step in told]
