"""What two runs of an experiment must have in common: every artefact's bytes, timing aside."""

import hashlib
import json
import re
from pathlib import Path

import pandas as pd

# Times, and what is drawn or told of them; logs; ids that MLflow gives.
_TIMED = re.compile(
    r"(benchmarks|cards|logs|latency|checkpoints)/|figures/time-|mlflow-runs\.json|report\.html"
    r"|points\.parquet|/\."
)
_TIMES = {"train_seconds", "tokens_per_second"}


def artefacts(results: Path) -> dict[str, str]:
    """Digest of each artefact below `results` by its path there."""
    files = (path for path in sorted(results.rglob("*")) if path.is_file())
    named = {str(path.relative_to(results)): path for path in files}
    kept = {name: path for name, path in named.items() if not _TIMED.search(f"/{name}")}
    return {name: hashlib.sha256(_content(path)).hexdigest() for name, path in kept.items()}


def _content(path: Path) -> bytes:
    match path.name.split(".")[-1]:
        case "jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            return json.dumps([_without_times(line) for line in lines]).encode()
        case "json":
            return json.dumps(_without_times(json.loads(path.read_text()))).encode()
        case "csv":
            table = pd.read_csv(path)
            timed = [name for name in table if "_ms_" in name or name in _TIMES]
            return table.drop(columns=[*timed, "git_commit"]).to_csv().encode()
    return path.read_bytes()


def _without_times(values: dict) -> dict:
    return {name: value for name, value in values.items() if name not in _TIMES}
