"""report.html: everything an experiment found, in one file that needs no network.

The page is filled from the table of points, the figures (inlined as SVG that follows the reader's
light or dark scheme) and the JSON artefacts; the wording lives in page.html.j2.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_text
from splitcodec.report.curves import ANCHOR, ANCHOR_POINT, compare, headlines
from splitcodec.report.figures import FAINT, INK, PAPER
from splitcodec.report.table import COLUMNS, perplexity_increase, read_points

KINDS = ("rd", "rate-by-split", "bounds", "time")
"""The kinds of figures, as their files' names begin."""


@dataclass(frozen=True)
class Shown:
    """A column of the page's table of points: heading, unit, and how a value is written."""

    name: str
    heading: str
    unit: str
    write: Callable[[Any], str]


def _decimals(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{count}f}"


def _significant(value: float) -> str:
    return f"{value:.3g}"


POINT_COLUMNS = (
    Shown("model", "model", "", str),
    Shown("split", "split", "", str),
    Shown("codec", "codec", "", str),
    Shown("coder", "coder", "", str),
    Shown("lambda", "λ", "nats/bit", "{:g}".format),
    Shown("seed", "seed", "", str),
    Shown("bits_per_token_estimated", "estimated", "bits/token", _decimals(1)),
    Shown("bits_per_token_payload", "payload", "bits/token", _decimals(1)),
    Shown("bits_per_token_file", "file", "bits/token", _decimals(1)),
    Shown("perplexity", "perplexity", "", _decimals(2)),
    Shown("increase", "increase", "%", "{:+,.2f}".format),
    Shown("cross_entropy", "cross-entropy", "nats", _decimals(4)),
    Shown("cross_entropy_low", "low", "nats", _decimals(4)),
    Shown("cross_entropy_high", "high", "nats", _decimals(4)),
    Shown("kl", "KL", "nats", _decimals(4)),
    Shown("kl_low", "low", "nats", _decimals(4)),
    Shown("kl_high", "high", "nats", _decimals(4)),
    Shown("top1_agreement", "top-1", "share", _decimals(3)),
    Shown("encode_ms_per_token", "encode", "ms/token", _significant),
    Shown("decode_ms_per_token", "decode", "ms/token", _significant),
    Shown("network_ms_per_token", "network", "ms/token", _significant),
    Shown("coder_ms_per_token", "lossless coder", "ms/token", _significant),
    Shown("train_seconds", "fitting", "s", _decimals(1)),
)


def write_report(
    points: Path,
    figures: list[Path],
    references: list[Path],
    bounds: list[Path],
    codecs: list[Path],
    html: Path,
) -> None:
    """Write the page to `html`.

    `figures` are what `figures.draw` returned (PNG files among them are passed over), `codecs` the
    codec.json files, for hashes and package versions. The same inputs give the same bytes.
    """
    table = read_points(points)
    environment = Environment(
        loader=PackageLoader("splitcodec.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2").render(
        experiment=table["experiment"].iloc[0],
        headlines=headlines(table),
        anchor=ANCHOR,
        anchor_point=ANCHOR_POINT,
        comparisons=compare(table),
        figures=_inline([path for path in figures if path.suffix == ".svg"]),
        shown=POINT_COLUMNS,
        rows=_cells(table),
        columns=COLUMNS,
        references=[read_json(path) for path in references],
        bounds=[read_json(path) for path in bounds],
        provenance=_provenance(table, [read_json(path) for path in codecs]),
        exp=math.exp,
    )
    write_text(html, page)


def _cells(table: pd.DataFrame) -> list[list[tuple[Any, str]]]:
    """For each point, (value to sort by, text) of each shown column."""
    table = table.assign(increase=perplexity_increase(table))
    return [
        [
            ("", "") if pd.isna(value) else (value, column.write(value))
            for column in POINT_COLUMNS
            for value in [row[column.name]]
        ]
        for row in table.to_dict("records")
    ]


def _inline(paths: list[Path]) -> dict[str, list[tuple[str, Markup]]]:
    """Name and SVG of each figure, by the kind of figure of `KINDS`."""
    kinds: dict[str, list[tuple[str, Markup]]] = {kind: [] for kind in KINDS}
    for number, path in enumerate(paths):
        kind = next((kind for kind in kinds if path.stem.startswith(f"{kind}-")), None)
        if kind is None:
            raise InputError(f"{path} is not a figure of this report; draw the figures again")
        kinds[kind].append((path.stem.removeprefix(f"{kind}-"), _svg(path, number)))
    return kinds


def _svg(path: Path, number: int) -> Markup:
    """The <svg> element, with ids of its own and the page's colours for ink and paper."""
    try:
        text = path.read_text(encoding="utf-8")
        text = text[text.index("<svg") :]
    except (OSError, ValueError):
        raise InputError(f"{path} is not an SVG figure; draw the figures again") from None
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", text)
    for colour, variable in ((INK, "--ink"), (FAINT, "--faint"), (PAPER, "--paper")):
        text = text.replace(colour, f"var({variable})")
    # Written by our own figure rule, so it may pass unescaped.
    return Markup(text)


def _provenance(table: pd.DataFrame, codecs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What the numbers came from, each as the distinct values found."""

    def distinct(values: Any) -> list[str]:
        return sorted({str(value) for value in values})

    versions = [f"{name} {version}" for c in codecs for name, version in c["versions"].items()]
    return {
        "git commit": distinct(table["git_commit"]),
        "hardware (times)": distinct(table["hardware"]),
        "evaluated": distinct(
            f"{row.partition}: {row.tokens:,} tokens of {row.documents} documents"
            for row in table.itertuples()
        ),
        "hash of the evaluated tokens": distinct(table["data_hash"]),
        "hash of the model": distinct(f"{c['model']}: {c['model_hash']}" for c in codecs),
        "hash of the training data": distinct(c["data_hash"] for c in codecs),
        "package versions": distinct(versions),
    }
