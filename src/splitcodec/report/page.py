"""report.html: everything an experiment found, in one file that needs no network.

The page is filled from the table of points and the JSON artefacts. `template` has its wording, its
style sheet, and the script that draws what can be played with from `page_data`; other figures are
inlined as SVG that follows the reader's light or dark scheme.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_text
from splitcodec.report.curves import ANCHOR, ANCHOR_POINT, Curve, compare, curves_of
from splitcodec.report.figures import INCREASE
from splitcodec.report.headlines import headlines
from splitcodec.report.matrix import matrices, read_documents
from splitcodec.report.measured import read_bounds, read_references
from splitcodec.report.page_data import example_name, page_data, point_name
from splitcodec.report.phases import phases
from splitcodec.report.pictures import read_pictures, rivalries
from splitcodec.report.possible import gaps, timings
from splitcodec.report.style import FAINT, INK, PAPER
from splitcodec.report.table import COLUMNS, IMAGES, perplexity_increase, read_points
from splitcodec.report.terms import PICTURES, TEXT, all_terms, terms_of

KINDS = ("rd", "rate-by-split", "bounds", "time")
"""The kinds of figures, as their files' names begin; the page draws the first two itself."""


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
    Shown("mode", "mode", "", str),
    Shown("coder", "coder", "", str),
    Shown("lambda", "λ", "nats/bit", "{:g}".format),
    Shown("seed", "seed", "", str),
    Shown("bits_per_token_estimated", "estimated", "bits/token", _decimals(1)),
    Shown("bits_per_token_payload", "payload", "bits/token", _decimals(1)),
    Shown("bits_per_token_file", "file", "bits/token", _decimals(1)),
    Shown("bits_per_picture", "file", "bits/picture", _decimals(0)),
    Shown("perplexity", "perplexity", "", _decimals(2)),
    Shown("increase", "increase", "%", "{:+,.2f}".format),
    Shown("cross_entropy", "cross-entropy", "nats", _decimals(4)),
    Shown("cross_entropy_low", "low", "nats", _decimals(4)),
    Shown("cross_entropy_high", "high", "nats", _decimals(4)),
    Shown("kl", "KL", "nats", _decimals(4)),
    Shown("kl_low", "low", "nats", _decimals(4)),
    Shown("kl_high", "high", "nats", _decimals(4)),
    Shown("top1_agreement", "top-1", "share", _decimals(3)),
    Shown("accuracy", "accuracy", "share", _decimals(3)),
    Shown("feature_error", "square error", "of features", _decimals(4)),
    Shown("encode_ms_per_token", "encode", "ms/token", _significant),
    Shown("decode_ms_per_token", "decode", "ms/token", _significant),
    Shown("network_ms_per_token", "network", "ms/token", _significant),
    Shown("coder_ms_per_token", "lossless coder", "ms/token", _significant),
    Shown("train_seconds", "fitting", "s", _decimals(1)),
)
_OF_TEXT = ("perplexity", "increase", "cross_entropy", "cross_entropy_low", "cross_entropy_high")
"""Columns that say nothing of pictures, whose classes are seldom known."""


@dataclass(frozen=True)
class Material:
    """The files that a page is made from, beside the table of points.

    `figures` are what `figures.draw` and `draw_bounds` returned (those that are no SVG, or that the
    page draws itself, are passed over); `codecs` are codec.json files, for hashes and package
    versions; `evaluations` give intervals of BD-rates where they have sums by document; `examples`
    and `pictures` are what the verbs of these names wrote.
    """

    figures: list[Path]
    references: list[Path]
    bounds: list[Path]
    codecs: list[Path]
    evaluations: list[Path] = field(default_factory=list)
    examples: list[Path] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


def write_report(points: Path, material: Material, html: Path) -> None:
    """Write the page to `html`; the same files give the same bytes."""
    table = read_points(points)
    pictures, shown = read_pictures(material.pictures), _shown(table)
    references, bounds = read_references(material.references), read_bounds(material.bounds)
    codecs = [read_json(path, "hash", "versions") for path in material.codecs]
    examples = [read_json(path, "model", "codec_hash") for path in material.examples]
    environment = _environment()

    def source(name: str) -> Markup:
        """Our own style sheet or script, as it stands."""
        return Markup(environment.loader.get_source(environment, name)[0])

    page = environment.get_template("page.html.j2").render(
        experiment=table["experiment"].iloc[0],
        source=source,
        data=page_data(table, references, bounds, examples, pictures),
        **_words(table),
        places=_places(table),
        models=[{"name": model, "terms": terms_of(rows)} for model, rows in table.groupby("model")],
        pictures=[curve for curves in pictures.values() for curve in curves],
        rivals=rivalries(table, pictures, INCREASE),
        headlines=headlines(table),
        comparisons=compare(table),
        matrices=matrices(table, read_documents(material.evaluations)),
        gaps=gaps(table, bounds),
        timings=timings(table, INCREASE),
        anchor=ANCHOR,
        anchor_point=ANCHOR_POINT,
        figures=_inline([path for path in material.figures if path.suffix == ".svg"]),
        shown=shown,
        rows=_cells(table, shown),
        columns=COLUMNS,
        references=references,
        bounds=bounds,
        bounded=_bounded(bounds),
        examples=examples,
        provenance=_provenance(table, codecs),
        phases=phases(table, len(material.bounds)),
        exp=math.exp,
        told=_told,
        infinite=math.isinf,
        example_name=example_name,
        point_name=point_name,
    )
    write_text(html, page)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("splitcodec.report", "template"),
        autoescape=lambda name: ".html" in (name or ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _words(table: pd.DataFrame) -> dict[str, Any]:
    """What the page's sentences call units, qualities and documents, by the kinds of models."""
    kinds = all_terms(table)
    text, images = TEXT in kinds, PICTURES in kinds
    return {
        "text": text,
        "what": "a language model" if not images else "a model" if text else "an image model",
        "unit": " or ".join(terms.unit for terms in kinds),
        "quality": " or ".join(terms.quality for terms in kinds),
        "level": " or ".join(terms.level(INCREASE) for terms in kinds),
        "documents": "documents" if text else "pictures",
    }


def _told(curve: Curve, cross_entropy: float) -> str:
    """The quality of a curve at a cross-entropy in nats."""
    value = curve.terms.value(cross_entropy, curve.uncoded)
    return f"{value:,.2f}" if curve.terms is TEXT else f"{value:.3g}"


def _shown(table: pd.DataFrame) -> list[Shown]:
    """The columns that say something of these models."""
    idle = {name for name in IMAGES if table[name].isna().all()}
    idle |= set() if TEXT in all_terms(table) else set(_OF_TEXT)
    idle |= set() if set(table["mode"]) - {"none", "frozen"} else {"mode"}
    return [column for column in POINT_COLUMNS if column.name not in idle]


def _places(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Models and splits, in the order in which `page_data` has them."""
    pairs = dict.fromkeys((curve.model, curve.split) for curve in curves_of(table))
    return [{"model": model, "split": split} for model, split in pairs]


def _bounded(bounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each codec of each bounds file, with its split."""
    return [
        row | {"model": item["model"], "split": item["split"]}
        for item in bounds
        for row in item["covariance"]["codecs"]
    ]


def _cells(table: pd.DataFrame, shown: list[Shown]) -> list[list[tuple[Any, str]]]:
    """For each point, (value to sort by, text) of each shown column."""
    table = table.assign(increase=perplexity_increase(table))
    return [
        [
            ("", "") if pd.isna(value) else (value, column.write(value))
            for column in shown
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
