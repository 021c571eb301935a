"""What MLflow should show of an experiment, in MLflow's terms: made from the artefacts alone."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from splitcodec.errors import InputError
from splitcodec.files import read_json, sha256_of_file
from splitcodec.report.curves import ANCHOR_POINT, Comparison, Curve, compare, curve_name
from splitcodec.report.figures import styles_of
from splitcodec.report.table import COLUMNS, NUMBER, perplexity_increase
from splitcodec.report.terms import PICTURES, terms_of_point

GOOD_ENOUGH = 5.0
"""Percent of perplexity, or hundredths of nats, that the point shown by a parent run may lose."""

NOTE = "mlflow.note.content"
_COLOUR = "mlflow.runColor"
_METRICS = [c.name for c in COLUMNS if c.dtype == NUMBER and c.name != "lambda"]
_METRICS.append("perplexity_increase_percent")
_BD_RATE, _RATIO = "bd_rate_percent_vs_int_zstd", "rate_ratio_to_int4_zstd"
_PARAMETERS = ("model", "split", "codec", "coder", "mode", "lambda", "seed", "partition")
_TAGS = ("data_hash", "git_commit", "hardware")

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
        return digest_of(self.parameters, self.history)

    @property
    def digest(self) -> str:
        """Digest of everything else."""
        files = [(path.name, sha256_of_file(path)) for path in self.artefacts]
        return digest_of(self.name, self.metrics, self.tags, self.seconds, files)


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
        metrics[_BD_RATE] = item.bd.percent
    if item.ratio and ANCHOR_POINT in item.ratio.at_points:
        metrics[_RATIO] = item.ratio.at_points[ANCHOR_POINT]
    parameters = {"model": curve.model, "split": str(curve.split), "curve": curve.name}
    within = curve.terms.level(GOOD_ENOUGH / 100)
    note = f"Best point within {within}: {_said(best)}.\n\n{_listing(curve)}"
    return WantedRun(
        key=_curve_key(curve),
        name=name,
        model=curve.model,
        split=curve.split,
        parameters=parameters | {"codec": best["codec"], "coder": best["coder"]},
        metrics=metrics,
        tags=parameters | _tags(best) | {"level": "curve", NOTE: note},
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
        key=point_key(row),
        name=f"{place}/{name}{seed if name_seed else ''}",
        model=curve.model,
        split=curve.split,
        parameters={name: str(value) for name, value in parameters.items()},
        metrics=_metrics(row),
        tags=places | _tags(row) | {"level": "point", NOTE: f"{_said(row)}."},
        parent=_curve_key(curve),
        seconds=row["train_seconds"],
    )


def point_key(row: dict[str, Any]) -> str:
    """What names a point among all of an experiment."""
    place = f"{row['model']}/split{row['split']}/{curve_name(row['codec'], row['coder'])}"
    return f"{place}/{point_name(row)}{point_seed(row)}"


def point_name(row: dict[str, Any]) -> str:
    """What a point is called among those of its split."""
    if pd.isna(row["lambda"]):
        return f"{row['codec']} + {row['coder']}"
    return f"{row['codec']} λ={_decimal(row['lambda'])}"


def point_seed(row: dict[str, Any]) -> str:
    """The addition that tells seeds apart."""
    return "" if pd.isna(row["seed"]) else f" seed={row['seed']}"


def _best(curve: Curve) -> dict[str, Any]:
    """The cheapest point that is good enough, else the one of the lowest cross-entropy."""
    rows = curve.points
    loss = rows["cross_entropy"] - rows["cross_entropy_uncoded"]
    good = rows[loss <= curve.terms.nats(GOOD_ENOUGH / 100)]
    by = "bits_per_token_file" if len(good) else "cross_entropy"
    return (good if len(good) else rows).sort_values(by).iloc[0].to_dict()


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in row.items() if _of_point(name) and pd.notna(value)
    }


def _of_point(name: str) -> bool:
    return name in _METRICS or name.startswith("task_")


def is_result(metric: str) -> bool:
    """Whether a run's metric is made from the table of points, and not logged in training."""
    return _of_point(metric) or metric in (_BD_RATE, _RATIO)


def _tags(row: dict[str, Any]) -> dict[str, str]:
    source = {"mlflow.source.name": "splitcodec", "mlflow.source.git.commit": row["git_commit"]}
    return {name: row[name] for name in _TAGS} | source


def _decimal(value: float) -> str:
    """Without an exponent, so that names sort by value: 0.00003, not 3e-05."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _said(row: dict[str, Any]) -> str:
    if terms_of_point(row) is PICTURES:
        bits = f"{row['bits_per_picture']:,.0f} bits per picture (file)"
        return f"{point_name(row)}: {bits}, divergence {row['kl']:.4f} nats"
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


def digest_of(*parts: Any) -> str:
    """What tells whether something was written with just these values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
