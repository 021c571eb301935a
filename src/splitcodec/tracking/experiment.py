"""A whole results directory in MLflow."""

import os
import shlex
from pathlib import Path

from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from splitcodec.errors import InputError, reason_of
from splitcodec.files import read_json, write_json
from splitcodec.report.table import read_points
from splitcodec.report.terms import PICTURES, terms_of
from splitcodec.tracking.live import queue_of
from splitcodec.tracking.registry import Registry
from splitcodec.tracking.store import Store, quieten, without_password
from splitcodec.tracking.versions import wanted_versions
from splitcodec.tracking.views import page, views
from splitcodec.tracking.wanted import wanted_runs

DEFAULT_URI = "sqlite:///mlflow.db"


def sync(results: Path, tracking_uri: str | None = None, later: bool = False) -> None:
    """Make MLflow show the results/<experiment> directory, of which nothing else is needed.

    The store is `tracking_uri`, else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db; what is where
    in it goes to mlflow-runs.json. Raises InputError if the store cannot be used, or with `later`
    notes so in that file: the artefacts hold all, and a later call sends it.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    shown = without_password(uri)
    record, experiment = results / "mlflow-runs.json", results.resolve().name
    points = read_points(results / "points.parquet")
    trainings = sorted(results.glob("codecs/*/*/*/*/training.jsonl"))
    places = list(dict.fromkeys(zip(points["model"], points["split"], strict=True)))
    pictured = {name for name, rows in points.groupby("model") if terms_of(rows) is PICTURES}
    wanted = wanted_runs(points, sorted((results / "figures").glob("*")), trainings)
    versions = wanted_versions(experiment, points, sorted(results.glob("codecs/*/*/*/*")))
    quieten()
    try:
        store = Store(uri, experiment, record)
        ids = store.show(wanted)
        store.save_views(views(places, pictured))
        Registry(store, experiment, ids).show(versions)
    except (MlflowException, SQLAlchemyError, RequestException, ImportError) as error:
        reason = reason_of(without_password(str(error)))
        if later:
            former = read_json(record) if record.exists() else {"runs": {}}
            write_json(record, former | {"tracking_uri": shown, "waits": reason})
            print(f"MLflow cannot be reached; later: splitcodec track sync {results}")
            return
        raise InputError(
            f"MLflow cannot use {shown} ({reason}); check MLFLOW_TRACKING_URI, or move that "
            "store away and rerun"
        ) from None
    for key in ids:
        queue_of(results, key).unlink(missing_ok=True)
    opened = {"tracking_uri": shown, "experiment": experiment, "experiment_id": store.experiment}
    address, command = _how_to_open(shown)
    opened |= {"command": command, "page": page(address, store.experiment, *places[-1])}
    write_json(record, opened | {"runs": ids})


def _how_to_open(uri: str) -> tuple[str, str | None]:
    """The address at which a browser finds a store, and the command that serves it if need be."""
    if uri.startswith(("http://", "https://")):
        return uri, None
    return "http://127.0.0.1:5000", f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
