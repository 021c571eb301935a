"""What an experiment ends with on the terminal: the points, the headline, and where things lie."""

import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from splitcodec.codecs.catalogue import is_baseline
from splitcodec.files import read_json
from splitcodec.report.curves import ANCHOR, compare, curves_of
from splitcodec.report.headlines import headlines
from splitcodec.report.possible import coding_ms
from splitcodec.report.table import IMAGES, perplexity_increase, read_points
from splitcodec.report.terms import PICTURES, TEXT, all_terms, terms_of

_WIDTH = 100
_EXPLANATION = (
    "bits/token: of the whole file; of fp16: share of the raw fp16 file; Δ %: perplexity over "
    "uncoded; KL: nats a token from the uncoded prediction; top-1: share of tokens whose likeliest "
    "prediction stays; ms/token: encoding plus decoding."
)
_OF_PICTURES = (
    "Image models: KL is in nats a prediction; accuracy: of pictures whose class is known; error: "
    "relative square error of an encoder's features."
)
_ONLY_TEXT = ("perplexity", "increase")


def _short(style: str) -> Callable[[float], str]:
    """Writes in `style`, or with an exponent where the digits would burst the column."""
    return lambda value: format(value, style if abs(value) < 1e5 else ".1e")


class _Column(NamedTuple):
    name: str
    heading: str
    write: Callable[[Any], str]


_COLUMNS = (
    _Column("codec", "codec", str),
    _Column("coder", "coder", str),
    _Column("lambda", "λ", "{:g}".format),
    _Column("seed", "seed", str),
    _Column("bits_per_token_file", "bits/token", "{:,.1f}".format),
    _Column("bits_per_picture", "bits/picture", "{:,.0f}".format),
    _Column("share", "of fp16", "{:.3f}".format),
    _Column("perplexity", "perplexity", _short(",.2f")),
    _Column("increase", "Δ %", _short("+.1f")),
    _Column("kl", "KL", "{:.4f}".format),
    _Column("top1_agreement", "top-1", "{:.3f}".format),
    _Column("accuracy", "accuracy", "{:.3f}".format),
    _Column("feature_error", "error", "{:.4f}".format),
    _Column("time", "ms/token", "{:.3g}".format),
)


def print_summary(results: Path, console: Console | None = None) -> None:
    """Print the points of `results` (a directory) by split, and where the rest is to be found.

    100 columns wide, with fewer columns on a narrower terminal; plain text where output is none.
    """
    points = read_points(results / "points.parquet")
    console = console or Console(highlight=False)
    # A pipe has no width of its own, and the usual 80 columns would cut the numbers.
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    for (model, split), rows in points.groupby(["model", "split"]):
        console.print(_table(model, split, rows, console.width))
        console.print()
    console.print(_EXPLANATION, style="dim")
    if PICTURES in all_terms(points):
        console.print(_OF_PICTURES, style="dim")
    console.print()
    _print_headlines(console, points)
    _print_places(console, results)


def _table(model: str, split: int, rows: pd.DataFrame, width: int) -> Table:
    """One row a point: learned codecs first, then integers, then fp16; within each by rate."""
    terms, uncoded = terms_of(rows), math.exp(rows["cross_entropy_uncoded"].iloc[0])
    raw = rows[(rows["codec"] == "fp16") & (rows["coder"] == "raw")]["bits_per_token_file"]
    rows = rows.assign(
        increase=perplexity_increase(rows),
        share=rows["bits_per_token_file"] / (raw.iloc[0] if len(raw) else math.nan),
        time=coding_ms(rows),
    )
    idle = {name for name in IMAGES if rows[name].isna().all()}
    idle |= set() if terms is TEXT else {"bits_per_token_file", *_ONLY_TEXT}
    idle |= set() if rows["seed"].nunique() > 1 else {"seed"}
    columns = [column for column in _COLUMNS if column.name not in idle]
    if width < _WIDTH:
        columns = [column for column in columns if column.name not in ("share", "kl")]
    table = Table(
        title=f"{model}, split {split}"
        + (f": uncoded perplexity {uncoded:.2f}" if terms is TEXT else ""),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        justify = "left" if column.name in ("codec", "coder") else "right"
        table.add_column(column.heading, justify=justify, no_wrap=True)
    learned = True
    for curve in curves_of(rows):
        for row in curve.points.sort_values("bits_per_token_file").to_dict("records"):
            if learned and is_baseline(row["codec"]):
                table.add_section()
                learned = False
            values = ((row[column.name], column.write) for column in columns)
            table.add_row(*("" if pd.isna(value) else write(value) for value, write in values))
    return table


def _print_headlines(console: Console, points: pd.DataFrame) -> None:
    found = headlines(points)
    for item in found:
        console.print(f"{item.sentence}.", style="bold" if item is found[0] else None)
    if not found:
        quality = " or ".join(terms.quality for terms in all_terms(points))
        console.print(f"No learned codec was measured on both sides of int4 + zstd's {quality}.")
    for item in compare(points):
        curve = item.curve
        if item.bd and not is_baseline(curve.points["codec"].iloc[0]):
            ends = [curve.terms.value(end, curve.uncoded) for end in (item.bd.low, item.bd.high)]
            low, high = (f"{end:.2f}" if curve.terms is TEXT else f"{end:.3g}" for end in ends)
            console.print(
                f"{curve.model}, split {curve.split}: BD-rate of {curve.name} against {ANCHOR} "
                f"{item.bd.percent:+.1f} %, {curve.terms.quality} {low} to {high}."
            )
    console.print()


def _print_places(console: Console, results: Path) -> None:
    """Where points, figures, report and runs lie; what does not exist is left out."""
    places = {
        "points": results / "points.csv",
        "same, typed": results / "points.parquet",
        "figures": results / "figures",
        "report": results / "report.html",
    }
    for name, path in places.items():
        if path.exists():
            _print_place(console, name, str(path))
    if (record := results / "mlflow-runs.json").exists():
        runs = read_json(record)
        if "waits" in runs:
            _print_place(console, "runs", f"wait for MLflow: splitcodec track sync {results}")
            return
        if runs["command"]:
            _print_place(console, "runs", _runnable(runs["command"]))
        _print_place(console, "" if runs["command"] else "runs", runs["page"])


def _print_place(console: Console, name: str, place: str) -> None:
    # Paths and commands are for copying: never wrapped, never read as markup.
    console.print(f"{name:12}{place}", soft_wrap=True, markup=False)


def _runnable(command: str) -> str:
    """`command`, with the path of its program where that is not on PATH."""
    program = command.split()[0]
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) or not beside.exists():
        return command
    return os.path.relpath(beside) + command.removeprefix(program)
