"""The three figures: rate-distortion, rate by split, time a token. One function each.

A method has one colour and one marker everywhere (Okabe and Ito's palette, safe for colour-blind
readers). Drawn for the text column of a one-column paper; the bytes depend on the data only.
"""

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from splitcodec.files import atomic_path, read_json
from splitcodec.report.curves import (
    ANCHOR,
    Curve,
    bd_rate,
    curve_name,
    curves_of,
    headlines,
    name_order,
    rate_at,
)
from splitcodec.report.table import read_points

WIDTH = 5.5  # inches
INK, FAINT, PAPER = "#22262b", "#8a9099", "#ffffff"
INCREASE = 0.05
"""Relative increase of perplexity at which splits are compared."""
TOP = 2.0
"""The rate-distortion figure ends at this multiple of the uncoded perplexity, or before."""

_PARAMETERS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "svg.hashsalt": "splitcodec",
    "savefig.dpi": 200,
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)


_MEAN = ("codec", "lambda", "cross_entropy")


class Style(NamedTuple):
    """Colour, marker and line of a method."""

    colour: str
    marker: str
    line: str


_LEARNED = [
    Style("#0072B2", "o", "-"),
    Style("#D55E00", "s", "-"),
    Style("#CC79A7", "D", "-"),
    Style("#009E73", "P", "-"),
    Style("#56B4E9", "X", "-"),
    Style("#882255", "v", "-"),
    Style("#44AA99", "<", "-"),
    Style("#332288", ">", "-"),
    Style("#999933", "p", "-"),
    Style("#AA4499", "h", "-"),
]
_BASELINES = {
    "int + zstd": Style("#E69F00", "^", "--"),
    "int + deflate": Style("#A8791B", "v", "--"),
    "int + raw": Style("#7F8791", "<", "--"),
    "fp16 + zstd": Style("#E69F00", "2", ""),
    "fp16 + deflate": Style("#A8791B", "1", ""),
    "fp16 + raw": Style("#7F8791", "+", ""),
}


def styles_of(points: pd.DataFrame) -> dict[str, Style]:
    """The look of every curve of an experiment, the same in all its figures."""
    names = {curve_name(*pair) for pair in zip(points["codec"], points["coder"], strict=True)}
    learned = sorted(names - _BASELINES.keys(), key=name_order)
    return _BASELINES | dict(zip(learned, itertools.cycle(_LEARNED)))


def draw(points: Path, references: list[Path], bounds: list[Path], directory: Path) -> list[Path]:
    """Draw every figure of an experiment into `directory`; returns the SVG and PNG files.

    Makes `rd-<model>-split<k>` for each model and split, and `rate-by-split-<model>` and
    `time-<model>` for each model.
    """
    table = read_points(points)
    lines = {item["model"]: item for item in map(read_json, references)}
    limits = [read_json(path) for path in bounds]
    paths = []
    for model, rows in table.groupby("model"):
        for split in sorted(rows["split"].unique()):
            figure = rd_curve(table, model, split, lines.get(model))
            paths += save(figure, directory / f"rd-{model}-split{split}")
        mine = [item for item in limits if item["model"] == model]
        figure = rate_by_split(table, model, mine, lines.get(model))
        paths += save(figure, directory / f"rate-by-split-{model}")
        paths += save(time_per_token(table, model), directory / f"time-{model}")
    return paths


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `figure` as SVG and PNG beside `stem`; the same figure gives the same bytes."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    for path, metadata in zip(paths, ({"Date": None}, {"Software": None}), strict=True):
        with mpl.rc_context(_PARAMETERS), atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def rd_curve(
    points: pd.DataFrame, model: str, split: int, references: dict[str, Any] | None = None
) -> Figure:
    """Perplexity against file bits per token, both logarithmic, of all codecs at one split.

    Points beyond twice the uncoded perplexity are named above the edge. Vertical bars are 95 %
    intervals over documents of the level; all codecs see the same documents, so differences between
    codecs are known better than the bars suggest. `references` is references/<model>.json.
    """
    styles = styles_of(points)
    curves = [c for c in curves_of(points) if (c.model, c.split) == (model, split)]
    uncoded = math.exp(curves[0].points["cross_entropy_uncoded"].iloc[0])
    with mpl.rc_context(_PARAMETERS):
        figure, axes = _figure(3.9)
        bottom = uncoded * 0.96
        if references:
            bottom = min(bottom, math.exp(references["cross_entropy_low"]) * 0.99)
        highest = max(curve.points["perplexity"].max() for curve in curves)
        top = uncoded * min(TOP, max(1.1, 1.08 * highest / uncoded))
        axes.set(xscale="log", yscale="log", ylim=(bottom, top))
        axes.set(xlabel="bits per token (file)", ylabel="perplexity")
        axes.set_title(f"{model}, split {split}", loc="left")
        axes.axhline(uncoded, color=INK, linewidth=0.8, label="uncoded", zorder=1)
        for curve in curves:
            _draw_curve(axes, curve, styles[curve.name], _legend_label(curve, curves))
        _name_points_beyond(axes, curves)
        _say_ratios(axes, pd.concat([curve.points for curve in curves]))
        if references:
            _draw_references(axes, references)
        _perplexity_axes(axes, uncoded)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _figure(height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, **options)


def _legend_label(curve: Curve, curves: list[Curve]) -> str:
    if curve.name == ANCHOR:
        return f"{curve.name} (anchor)"
    delta = next((bd_rate(anchor, curve) for anchor in curves if anchor.name == ANCHOR), None)
    return curve.name if delta is None else f"{curve.name} (BD {_signed(delta.percent)} %)"


def _signed(percent: float) -> str:
    return f"{percent:+.0f}".replace("-", "−")


def _draw_curve(axes: Axes, curve: Curve, style: Style, label: str) -> None:
    """The mean over seeds as a line through its Pareto-optimal points; every point as a marker."""
    mean = curve.mean
    color, stroke = style.colour, style.marker in "12+"
    low, high = (np.exp(mean[f"cross_entropy_{end}"].to_numpy()) for end in ("low", "high"))
    axes.vlines(mean["bits_per_token_file"], low, high, color=color, linewidth=0.6, alpha=0.35)
    axes.plot(*_rate_and_perplexity(curve.front), linestyle=style.line, color=color)
    axes.plot(
        *_rate_and_perplexity(curve.points),
        style.marker,
        color=color,
        alpha=0.5 if len(curve.points) > len(mean) else 1,
        markeredgecolor=color if stroke else PAPER,
        markeredgewidth=1.1 if stroke else 0.4,
        zorder=3,
    )
    axes.plot([], [], linestyle=style.line, marker=style.marker, color=color, label=label)


def _rate_and_perplexity(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return rows["bits_per_token_file"].to_numpy(), np.exp(rows["cross_entropy"].to_numpy())


def _name_points_beyond(axes: Axes, curves: list[Curve]) -> None:
    """Say which points lie above the upper edge."""
    beyond = {}
    for curve in curves:
        rows = curve.mean[np.exp(curve.mean["cross_entropy"]) > axes.get_ylim()[1]]
        for codec, value, nats in zip(*(rows[c] for c in _MEAN), strict=True):
            beyond[codec if math.isnan(value) else f"{codec} λ={value:g}"] = math.exp(nats)
    if beyond:
        named = [f"{name} ({perplexity:,.0f})" for name, perplexity in beyond.items()]
        more = ", …" if len(named) > 4 else ""
        text = f"above the edge: {', '.join(named[:4])}{more}"
        axes.set_title(text, loc="right", fontsize=7, color=FAINT)


def _say_ratios(axes: Axes, points: pd.DataFrame) -> None:
    """The rate of each learned codec relative to int4 + zstd, at that point's perplexity."""
    if found := headlines(points):
        lines = [f"{item.name}: {item.ratio:.2f}" for item in found]
        text = f"bits relative to int4 + zstd\nat its perplexity, {found[0].perplexity:.2f}\n"
        axes.text(0.235, 0.965, text + "\n".join(lines), transform=axes.transAxes, va="top")


def _draw_references(axes: Axes, references: dict[str, Any]) -> None:
    """What sending the token ids costs, for a receiver that holds the front."""
    lines = {
        "token ids": references["token_ids_bits_per_token"],
        "token ids, unigram": references["unigram_bits_per_token"],
        "token ids, model's entropy": references["model_bits_per_token"],
    }
    for label, bits in lines.items():
        axes.axvline(bits, color=INK, linewidth=0.8, linestyle=":")
        axes.text(
            bits * 0.97,
            0.97,
            f"{label}: {bits:.1f}",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="top",
            fontsize=7,
        )
    axes.set_xlim(left=min(lines.values()) / 1.6)
    low, high = (math.exp(references[f"cross_entropy_{end}"]) for end in ("low", "high"))
    axes.axhspan(low, high, color=FAINT, alpha=0.12, linewidth=0)


def _perplexity_axes(axes: Axes, uncoded: float) -> None:
    """Plain numbers on both axes, and the increase over uncoded in percent on the right."""
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    _plain_logarithm(axes)
    right = axes.twinx()
    right.set(yscale="log", ylim=axes.get_ylim(), ylabel="increase over uncoded")
    right.grid(False)
    top = 100 * (axes.get_ylim()[1] / uncoded - 1)
    increases = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if top / 40 < tick <= top + 1e-6]
    right.set_yticks(
        [uncoded * (1 + increase / 100) for increase in [0, *increases]],
        [f"{increase} %" for increase in [0, *increases]],
    )
    right.yaxis.set_minor_locator(NullLocator())
    right.spines["right"].set_visible(True)


def _plain_logarithm(axes: Axes) -> None:
    """Plain numbers along a logarithmic x axis, at 1, 2 and 5 where it spans little."""
    low, high = axes.get_xlim()
    steps = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def rate_by_split(
    points: pd.DataFrame,
    model: str,
    bounds: list[dict[str, Any]],
    references: dict[str, Any] | None = None,
) -> Figure:
    """File bits per token at +5 % perplexity for each split, interpolated along each curve.

    Hollow markers are the Gaussian bound from the covariance, for the codec's own latents at the
    same perplexity and, in grey, for the representation itself. `bounds` are the bounds files of
    this model.
    """
    styles = styles_of(points)
    curves = [curve for curve in curves_of(points) if curve.model == model]
    names = sorted({curve.name for curve in curves}, key=name_order)
    with mpl.rc_context(_PARAMETERS):
        figure, axes = _figure(3.4)
        for name in names:
            mine = [curve for curve in curves if curve.name == name]
            style = styles[name]
            look = {"color": style.colour, "marker": style.marker}
            _draw_by_split(axes, mine, linestyle=style.line, label=name, **look)
            bounded = [_bounded(curve, bounds) for curve in mine]
            label = f"bound ({name})"
            _draw_by_split(axes, bounded, linestyle=":", mfc="none", label=label, **look)
        for limit in bounds:
            bits = limit["covariance"]["representation_bits_per_token"]
            if bits is None:  # too few tokens for a bound
                continue
            axes.plot(limit["split"], bits, "_", color=FAINT, markersize=22, markeredgewidth=1.4)
        if bounds:
            look = {"color": FAINT, "markersize": 9, "markeredgewidth": 1.4}
            axes.plot([], [], "_", label="bound (representation)", **look)
        if references:
            bits = references["token_ids_bits_per_token"]
            axes.axhline(
                bits, color=INK, linewidth=0.8, linestyle=":", label=f"token ids ({bits:.1f})"
            )
        axes.set_title(f"{model}, at perplexity +{100 * INCREASE:.0f} %", loc="left")
        axes.set(xlabel="split (blocks before it)", ylabel="bits per token (file)")
        axes.set_xticks(sorted({curve.split for curve in curves}))
        axes.margins(x=0.15)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        if axes.lines:
            figure.legend(loc="outside lower center", ncols=3)
        else:
            text = "no curve was measured on both sides of this perplexity"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT)
    return figure


def _draw_by_split(axes: Axes, curves: list[Curve], **look: Any) -> None:
    rates = {}
    for curve in (curve for curve in curves if len(curve.points)):
        quality = curve.points["cross_entropy_uncoded"].iloc[0] + math.log1p(INCREASE)
        rates[curve.split] = rate_at(curve, quality)
    known = {split: rate for split, rate in rates.items() if rate is not None}
    if known:
        axes.plot(list(known), list(known.values()), **look)


def _bounded(curve: Curve, bounds: list[dict[str, Any]]) -> Curve:
    """`curve` with the covariance bound of each point in place of its rate."""
    rows = [
        row | {"bits_per_token_file": row["bits_per_token"]}
        for limit in bounds
        if limit["split"] == curve.split
        for row in limit["covariance"]["codecs"]
        if row["bits_per_token"] is not None
    ]
    columns = ["codec", "lambda", "seed", "bits_per_token_file"]
    limits = pd.DataFrame(rows, columns=columns).astype({"lambda": float, "seed": "Int64"})
    points = curve.points.drop(columns="bits_per_token_file").merge(limits, on=columns[:3])
    return Curve(curve.model, curve.split, curve.name, points)


_CLOCKS = {
    "encode_ms_per_token": ("encode", ">", 0.27),
    "decode_ms_per_token": ("decode", "<", 0.09),
    "network_ms_per_token": ("both: networks", "o", -0.09),
    "coder_ms_per_token": ("both: lossless coder", "s", -0.27),
}


def time_per_token(points: pd.DataFrame, model: str) -> Figure:
    """Milliseconds a token of each codec, median over its points and splits, on one machine.

    Filled triangles: encoding and decoding. Below them the same two added, parted into transforms
    and networks on the one hand and the lossless coder on the other. Markers, not stacked bars,
    because lengths do not add on a logarithmic axis; thin lines span all points.
    """
    styles = styles_of(points)
    rows = points[points["model"] == model]
    curves = [curve_name(*pair) for pair in zip(rows["codec"], rows["coder"], strict=True)]
    names = sorted(set(curves), key=name_order, reverse=True)
    with mpl.rc_context(_PARAMETERS):
        figure, axes = _figure(0.9 + 0.34 * len(names))
        for place, name in enumerate(names):
            mine = rows[[curve == name for curve in curves]]
            for column, (_, marker, shift) in _CLOCKS.items():
                times, y = mine[column], place + shift
                look = _clock_look(marker, styles[name].colour)
                axes.plot([times.min(), times.max()], [y, y], color=look["color"], linewidth=0.8)
                axes.plot(times.median(), y, **look)
        for label, marker, _ in _CLOCKS.values():
            axes.plot([], [], **_clock_look(marker, INK), label=label)
        axes.set(xscale="log", xlabel="ms per token", ylim=(-0.5, len(names) - 0.5))
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{model}: {rows['hardware'].iloc[0]}", loc="left")
        _plain_logarithm(axes)
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def _clock_look(marker: str, colour: str) -> dict[str, Any]:
    face = PAPER if marker == "o" else colour
    return {"marker": marker, "color": colour, "mfc": face, "markersize": 4, "linestyle": ""}
