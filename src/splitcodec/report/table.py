"""The table of points: one row a point, the contract between the pipeline and all its readers.

Evaluation rows, timings and codec descriptions are joined by (model, split, codec, variant, coder);
`COLUMNS` says what each column means and in which unit, and goes into the Parquet metadata.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from splitcodec.errors import InputError, reason_of
from splitcodec.files import atomic_path, read_json, write_json
from splitcodec.inputs.tables import open_table, read_columns, table_writer, with_meaning
from splitcodec.report.terms import PICTURES, terms_of_point

EVALUATION, LATENCY, CODEC, RUN = "evaluation", "latency", "codec.json", "run"


@dataclass(frozen=True)
class Column:
    """One column: its type, unit, meaning, and the artefact it is copied from."""

    name: str
    dtype: str
    unit: str
    meaning: str
    source: str = EVALUATION


TEXT, INTEGER, NUMBER = "string", "Int64", "float64"

COLUMNS = (
    Column("experiment", TEXT, "", "name of the experiment", RUN),
    Column("model", TEXT, "", "name of the model"),
    Column("split", INTEGER, "blocks", "k: blocks 0 to k-1 are the front, the rest is the back"),
    Column("codec", TEXT, "", "what codes the representation: learned, or fp16 or intN unlearned"),
    Column("coder", TEXT, "", "lossless coder: ans, or raw, deflate, zstd for the baselines"),
    Column("mode", TEXT, "", "what learned beside the codec, see codecs.mode; none: nothing"),
    Column(
        "lambda",
        NUMBER,
        "nats/bit",
        "λ: nats one bit is worth; empty where no rate is weighed",
    ),
    Column("seed", INTEGER, "", "seed of the codec's training; empty if unlearned"),
    Column("partition", TEXT, "", "partition of the text that was evaluated"),
    Column("tokens", INTEGER, "tokens", "evaluated tokens; the first of each sequence counts"),
    Column("documents", INTEGER, "documents", "evaluated documents"),
    Column(
        "bits_per_token_estimated",
        NUMBER,
        "bits/token",
        "minus log2 likelihood under the codec's densities; empty where there is no model",
    ),
    Column("bits_per_token_payload", NUMBER, "bits/token", "entropy-coded bytes only"),
    Column("bits_per_token_file", NUMBER, "bits/token", "whole container file; the rate we report"),
    Column("bits_per_picture", NUMBER, "bits/picture", "whole file; of image models, by picture"),
    Column("cross_entropy", NUMBER, "nats/token", "of the next token, from what was decoded"),
    Column("cross_entropy_low", NUMBER, "nats/token", "lower end of its 95 % interval"),
    Column("cross_entropy_high", NUMBER, "nats/token", "upper end, by bootstrap over documents"),
    Column("perplexity", NUMBER, "", "exp of the cross-entropy"),
    Column("cross_entropy_uncoded", NUMBER, "nats/token", "of the unsplit model, same tokens"),
    Column("kl", NUMBER, "nats/token", "divergence of the coded prediction from the uncoded"),
    Column("kl_low", NUMBER, "nats/token", "lower end of its 95 % interval"),
    Column("kl_high", NUMBER, "nats/token", "upper end, by bootstrap over documents"),
    Column("top1_agreement", NUMBER, "share", "tokens whose likeliest prediction stays the same"),
    Column("accuracy", NUMBER, "share", "of pictures whose class is known, from what was decoded"),
    Column("accuracy_low", NUMBER, "share", "lower end of its 95 % interval"),
    Column("accuracy_high", NUMBER, "share", "upper end, by bootstrap over pictures"),
    Column("accuracy_uncoded", NUMBER, "share", "of the unsplit model, same pictures"),
    Column("feature_error", NUMBER, "", "of an encoder: square error of its features over theirs"),
    Column("feature_cosine", NUMBER, "", "of an encoder: cosine to its uncoded features"),
    Column("encode_ms_per_token", NUMBER, "ms/token", "representation to bytes", LATENCY),
    Column("decode_ms_per_token", NUMBER, "ms/token", "bytes to representation", LATENCY),
    Column(
        "network_ms_per_token",
        NUMBER,
        "ms/token",
        "share of encoding plus decoding spent in transforms and networks",
        LATENCY,
    ),
    Column(
        "coder_ms_per_token",
        NUMBER,
        "ms/token",
        "share of encoding plus decoding spent in the lossless coder",
        LATENCY,
    ),
    Column("train_seconds", NUMBER, "s", "wall time of fitting the codec", CODEC),
    Column("codec_hash", TEXT, "", "hash of the codec that made and read the file"),
    Column("data_hash", TEXT, "", "hash of the evaluated tokens"),
    Column("git_commit", TEXT, "", "commit of the code that collected the points", RUN),
    Column("hardware", TEXT, "", "on which the times were measured", LATENCY),
)
NAMES = [column.name for column in COLUMNS]
ORDER = ["model", "split", "codec", "coder", "lambda", "seed"]
IMAGES = {name for name in NAMES if name.startswith(("accuracy", "feature_", "bits_per_picture"))}
"""Columns that only image models fill; older tables lack them."""
OPTIONAL = {"lambda", "seed", "bits_per_token_estimated", "git_commit", "top1_agreement", *IMAGES}

_ARROW = {TEXT: pa.string(), INTEGER: pa.int64(), NUMBER: pa.float64()}


def collect(
    experiment: str,
    evaluations: list[Path],
    codecs: list[Path],
    latencies: list[Path],
    git_commit: str,
    csv: Path,
    parquet: Path,
    tasks: list[Path] | None = None,
) -> None:
    """Join the artefacts of all points into `csv` and `parquet`.

    `evaluations` are `evaluation/<model>/split<k>/<codec>/<variant>.json`, `codecs` are
    `codecs/<model>/split<k>/<codec>/<variant>/codec.json`, `latencies` are
    `latency/<model>/split<k>.json`, `tasks` are
    `tasks/<task>/<model>/split<k>/<codec>/<variant>.json`: the places name what the points belong
    to. Raises InputError that names the point when one of the first three is missing, or the codec
    changed after evaluation.
    """
    described = {_codec_key(path): read_json(path) for path in codecs}
    timed, measured = _timings(latencies), _tasks(tasks or [])
    rows = []
    for path in evaluations:
        key = _evaluation_key(path)
        codec = _needed(described, key, f"codec.json of {_said(key)}", "train")
        for point in _points(path, read_json(path)):
            rows.append(_row(path, key, point, codec, timed))
            rows[-1] |= {"experiment": experiment, "git_commit": git_commit}
            rows[-1] |= _task_columns(key, rows[-1], measured)
    if unused := described.keys() - {_evaluation_key(path) for path in evaluations}:
        raise InputError(f"no evaluation of {_said(min(unused))}; rerun its evaluation")
    if not rows:
        raise InputError("no evaluations to collect; name codecs or baselines in the parameters")
    table = _checked(pd.DataFrame(rows), "what was evaluated")
    write_points(table.sort_values(ORDER, ignore_index=True), csv, parquet)


def write_metrics(points: Path, out: Path) -> None:
    """Rate and quality of each point of the table, as nested JSON for `dvc metrics`."""
    metrics: dict[str, Any] = {}
    for row in read_points(points).to_dict("records"):
        place = metrics.setdefault(row["model"], {}).setdefault(f"split{row['split']}", {})
        weighed = [f"{name}{row[name]:g}" for name in ("lambda", "seed") if pd.notna(row[name])]
        name = "-".join([row["codec"], row["coder"], *weighed])
        terms = terms_of_point(row)
        kept = (terms.rate, "kl" if terms is PICTURES else "perplexity")
        place[name] = {key: row[key] for key in kept}
    write_json(out, metrics)


def read_points(path: Path) -> pd.DataFrame:
    """Read points.csv or points.parquet, with the columns and types of `COLUMNS` and of tasks.

    Raises InputError when the file is missing, damaged, or is not a table of points.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the experiment first")
    try:
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} is damaged ({reason_of(error)}); collect the points again"
        ) from None
    return _checked(table, str(path))


def perplexity_increase(points: pd.DataFrame | dict[str, Any]) -> pd.Series | float:
    """Relative increase of perplexity over the uncoded model, in percent; of rows, or of one."""
    uncoded = points["cross_entropy_uncoded"]
    return 100 * np.expm1(points["cross_entropy"] - uncoded)


def hardware_name(hardware: dict[str, Any]) -> str:
    """One line for `hardware` of a latency file, such as `EPYC, 2 threads, 23 GiB`."""
    return f"{hardware['cpu']}, {hardware['threads']} threads, {hardware['memory_gib']:.0f} GiB"


def _codec_key(path: Path) -> tuple[str, ...]:
    """(model, split<k>, codec, variant) of codecs/<model>/split<k>/<codec>/<variant>/codec.json."""
    return path.parts[-5:-1]


def _evaluation_key(path: Path) -> tuple[str, ...]:
    """(model, split<k>, codec, variant) of evaluation/<model>/split<k>/<codec>/<variant>.json."""
    return (*path.parts[-4:-1], path.name.removesuffix(".json"))


def _said(key: Iterable[str]) -> str:
    return " ".join(key)


def _timings(latencies: list[Path]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Rows of the latency files by (model, split<k>, codec, variant, coder), with the hardware."""
    rows = {}
    for path in latencies:
        document = read_json(path)
        try:
            hardware = hardware_name(_field(path, document, "hardware"))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} describes no hardware ({error}); time it again") from None
        for point in _points(path, document):
            place = [str(_field(path, point, name)) for name in ("codec", "variant", "coder")]
            rows[(path.parent.name, path.stem, *place)] = point | {"hardware": hardware}
    return rows


def _tasks(paths: list[Path]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """What was measured of each (model, split<k>, codec, variant), a row a task."""
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in paths:
        rows.setdefault(_evaluation_key(path), []).extend(_points(path, read_json(path)))
    return rows


def _task_columns(
    key: tuple[str, ...],
    point: dict[str, Any],
    measured: dict[tuple[str, ...], list[dict[str, Any]]],
) -> dict[str, float | None]:
    """The columns of every task for one point; its rate is that of the coder that was measured."""
    columns = {}
    for row in measured.get(key, []):
        if row["codec_hash"] != point["codec_hash"]:
            raise InputError(f"task {row['task']} of {_said(key)} is of another codec; rerun it")
        name = f"task_{row['task']}"
        columns |= {
            f"{name}_accuracy": row["accuracy"],
            f"{name}_accuracy_low": row["low"],
            f"{name}_accuracy_high": row["high"],
            f"{name}_accuracy_uncoded": row["accuracy_uncoded"],
            f"{name}_bits_per_token": (
                row["bits_per_token"] if row["coder"] == point["coder"] else None
            ),
        }
    return columns


_TASK_MEANINGS = {
    "accuracy": ("share", "of the task's items that the model with the codec inside gets right"),
    "accuracy_low": ("share", "lower end of its 95 % interval"),
    "accuracy_high": ("share", "upper end, by bootstrap over items"),
    "accuracy_uncoded": ("share", "of the plain model, same items"),
    "bits_per_token": ("bits/token", "of the streams of the task's items; empty if not measured"),
}


def _all_columns(table: pd.DataFrame) -> list[Column]:
    """Those of every table, and those of the tasks in this one."""
    found = []
    for name in table.columns:
        ends = [end for end in _TASK_MEANINGS if name.endswith(f"_{end}")]
        if name.startswith("task_") and ends:
            unit, meaning = _TASK_MEANINGS[ends[0]]
            found.append(Column(name, NUMBER, unit, meaning))
    return [*COLUMNS, *found]


def _row(
    path: Path,
    key: tuple[str, ...],
    point: dict[str, Any],
    codec: dict[str, Any],
    timed: dict[tuple[str, ...], dict[str, Any]],
) -> dict[str, Any]:
    """What evaluation, latency and codec say of one point."""
    key = (*key, str(_field(path, point, "coder")))
    timing = _needed(timed, key, f"time for {_said(key)} in {key[1]}.json", "latency")
    if _field(f"codec.json of {_said(key)}", codec, "hash") != _field(path, point, "codec_hash"):
        raise InputError(f"{path} was made with another codec than the one there; rerun evaluation")
    sources = {EVALUATION: point, LATENCY: timing, CODEC: codec}
    return {
        column.name: _field(f"{column.source} of {_said(key)}", sources[column.source], column.name)
        for column in COLUMNS
        if column.source in sources and (column.name not in IMAGES or column.name in point)
    }


def _points(path: Path, document: Any) -> list[Any]:
    points = _field(path, document, "points")
    if not points or not isinstance(points, list):
        raise InputError(f"{path} holds no points; delete it and rerun")
    return points


def _needed(rows: dict, key: tuple[str, ...], what: str, phase: str) -> Any:
    if key not in rows:
        raise InputError(f"no {what}; rerun the {phase} phase")
    return rows[key]


def _field(where: Path | str, document: Any, name: str) -> Any:
    if not isinstance(document, dict) or name not in document:
        raise InputError(f"{where} has no {name!r}; delete it and rerun the step that makes it")
    return document[name]


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Exactly the columns and types of `COLUMNS`, with no gap where a value is required."""
    table = table.assign(**dict.fromkeys(IMAGES - set(table.columns), np.nan))
    if missing := [name for name in NAMES if name not in table.columns]:
        more = " …" if len(missing) > 3 else ""
        raise InputError(
            f"{where} is not a table of points: no column {', '.join(missing[:3])}{more}; "
            "collect the points again"
        )
    try:
        columns = {column.name: column.dtype for column in _all_columns(table)}
        table = table[list(columns)].astype(columns)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where} has a value of a wrong type ({reason_of(error)})") from None
    required = table[[name for name in NAMES if name not in OPTIONAL]]
    gaps = list(required.columns[(required.isna() | (required == "")).any()])
    if gaps or table.empty:
        what = f"gaps in {', '.join(gaps[:3])}" if gaps else "no points"
        raise InputError(f"{where} has {what}; collect the points again")
    return table


def write_points(table: pd.DataFrame, csv: Path, parquet: Path) -> None:
    """Write a table of points, as `read_points` gives it, to both files."""
    columns = _all_columns(table)
    meaning = {"columns": {c.name: {"unit": c.unit, "meaning": c.meaning} for c in columns}}
    fields = [
        pa.field(c.name, _ARROW[c.dtype], metadata={"unit": c.unit, "meaning": c.meaning})
        for c in columns
    ]
    schema = with_meaning(pa.schema(fields), "points", meaning)
    with atomic_path(csv) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(parquet) as temporary, table_writer(temporary, schema) as writer:
        writer.write_table(
            pa.Table.from_pandas(table, schema=schema, preserve_index=False).cast(schema)
        )


def _read_parquet(path: Path) -> pd.DataFrame:
    file, _ = open_table(path, "points")
    return read_columns(path, file, file.schema_arrow.names).to_pandas()


def _read_csv(path: Path) -> pd.DataFrame:
    # Everything as text first: a hash of digits must not become a number, nor `none` a gap.
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    numeric = [c.name for c in _all_columns(text) if c.dtype != TEXT and c.name in text.columns]
    return text.assign(**{name: pd.to_numeric(text[name].replace("", None)) for name in numeric})
