"""The figures of an experiment: which there are, rate by split, and time a token.

`rd_figure` and `bounds_figure` draw the others. One function each; the look is in `style`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from splitcodec.report.curves import Curve, curve_name, curves_of, name_order, rate_at_level
from splitcodec.report.measured import read_bounds, read_references
from splitcodec.report.pictures import read_pictures
from splitcodec.report.rd_figure import rd_curve
from splitcodec.report.style import (
    FAINT,
    INK,
    PAPER,
    PARAMETERS,
    WIDTH,
    Style,
    new_figure,
    plain_logarithm,
    save,
    styles_of,
)
from splitcodec.report.table import read_points
from splitcodec.report.terms import terms_of

INCREASE = 0.05
"""Loss at which splits are compared: a share of perplexity, or nats of divergence (`terms`)."""

_MOST_TICKS = 15  # of splits, so that their numbers stand apart


def draw(
    points: Path,
    references: list[Path],
    bounds: list[Path],
    directory: Path,
    pictures: list[Path] | None = None,
) -> list[Path]:
    """Draw every figure of an experiment into `directory`; returns the SVG and PNG files.

    Makes `rd-<model>-split<k>` for each model and split, and `rate-by-split-<model>` and
    `time-<model>` for each model.
    """
    table = read_points(points)
    lines = {item["model"]: item for item in read_references(references)}
    limits = read_bounds(bounds)
    rivals, paths = read_pictures(pictures or []), []
    for model, rows in table.groupby("model"):
        mine = [item for item in limits if item["model"] == model]
        for split in sorted(rows["split"].unique()):
            own = next((item for item in mine if item["split"] == split), None)
            parts = {"bounds": own, "pictures": rivals.get(model, [])}
            figure = rd_curve(table, model, split, lines.get(model), **parts)
            paths += save(figure, directory / f"rd-{model}-split{split}")
        own = (mine, lines.get(model), rivals.get(model, []))
        figure = rate_by_split(table, model, *own)
        paths += save(figure, directory / f"rate-by-split-{model}")
        paths += save(time_per_token(table, model), directory / f"time-{model}")
    return paths


def rate_by_split(
    points: pd.DataFrame,
    model: str,
    bounds: list[dict[str, Any]],
    references: dict[str, Any] | None = None,
    pictures: Sequence[Curve] = (),
    width: float = WIDTH,
) -> Figure:
    """File rate at +5 % perplexity for each split, interpolated along each curve; of image models
    by picture, at a divergence of 0.05 nats, with lines for what `pictures` sent as files cost.

    Hollow markers are the Gaussian bound from the covariance, for the codec's own latents at the
    same quality and, in grey, for the representation itself. `bounds` are the bounds files of
    this model.
    """
    styles = styles_of(points)
    curves = [curve for curve in curves_of(points) if curve.model == model]
    names = sorted({curve.name for curve in curves}, key=name_order)
    terms = curves[0].terms
    with mpl.rc_context(PARAMETERS):
        figure, axes = new_figure(3.4, width=width)
        for name in names:
            mine = [curve for curve in curves if curve.name == name]
            style = styles[name]
            look = {"color": style.colour, "marker": style.marker}
            _draw_by_split(axes, mine, linestyle=style.line, label=name, **look)
            bounded = [_bounded(curve, bounds) for curve in mine]
            label = f"bound ({name})"
            _draw_by_split(axes, bounded, linestyle=":", mfc="none", label=label, **look)
        _draw_bounds(axes, bounds, {curve.split: curve.tokens_a_unit for curve in curves})
        if references:
            bits = references["token_ids_bits_per_token"]
            axes.axhline(
                bits, color=INK, linewidth=0.8, linestyle=":", label=f"token ids ({bits:.1f})"
            )
        for curve in pictures:
            _draw_rival(axes, curve, styles[curve.name])
        axes.set_title(f"{model}, at {terms.level(INCREASE)}", loc="left")
        axes.set(xlabel="split (blocks before it)", ylabel=f"bits per {terms.unit} (file)")
        splits = sorted({curve.split for curve in curves})
        axes.set_xticks(splits[:: math.ceil(len(splits) / _MOST_TICKS)])
        axes.margins(x=0.15)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        if axes.lines:
            figure.legend(loc="outside lower center", ncols=3)
        else:
            text = f"no curve was measured on both sides of this {terms.quality}"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT)
    return figure


def _draw_by_split(axes: Axes, curves: list[Curve], **look: Any) -> None:
    rates = {}
    for curve in (curve for curve in curves if len(curve.points)):
        rates[curve.split] = rate_at_level(curve, INCREASE)
    known = {split: rate for split, rate in rates.items() if rate is not None}
    if known:
        axes.plot(list(known), list(known.values()), **look)


def _draw_bounds(axes: Axes, bounds: list[dict[str, Any]], scales: dict[int, float]) -> None:
    """The Gaussian bound of the representation; `scales` has `tokens_a_unit` of each split."""
    for limit in bounds:
        bits = limit["covariance"]["representation_bits_per_token"]
        if bits is None:  # too few tokens for a bound
            continue
        bits *= scales.get(limit["split"], math.nan)
        size = min(22, 240 / len(bounds))
        axes.plot(limit["split"], bits, "_", color=FAINT, markersize=size, markeredgewidth=1.4)
    if bounds:
        look = {"color": FAINT, "markersize": 9, "markeredgewidth": 1.4}
        axes.plot([], [], "_", label="bound (representation)", **look)


def _draw_rival(axes: Axes, curve: Curve, style: Style) -> None:
    """What a picture costs as a file that is just good enough."""
    if bits := rate_at_level(curve, INCREASE):
        label = f"{curve.name} ({bits:,.0f})"
        axes.axhline(bits, color=style.colour, linewidth=1, linestyle=style.line, label=label)


def _bounded(curve: Curve, bounds: list[dict[str, Any]]) -> Curve:
    """`curve` with the covariance bound of each point in place of its rate."""
    rows = [
        row | {curve.rate: row["bits_per_token"] * curve.tokens_a_unit}
        for limit in bounds
        if limit["split"] == curve.split
        for row in limit["covariance"]["codecs"]
        if row["bits_per_token"] is not None
    ]
    columns = ["codec", "lambda", "seed", curve.rate]
    limits = pd.DataFrame(rows, columns=columns).astype({"lambda": float, "seed": "Int64"})
    points = curve.points.drop(columns=curve.rate).merge(limits, on=columns[:3])
    return Curve(curve.model, curve.split, curve.name, points)


_CLOCKS = {
    "encode_ms_per_token": ("encode", ">", 0.27),
    "decode_ms_per_token": ("decode", "<", 0.09),
    "network_ms_per_token": ("both: networks", "o", -0.09),
    "coder_ms_per_token": ("both: lossless coder", "s", -0.27),
}


def time_per_token(points: pd.DataFrame, model: str, width: float = WIDTH) -> Figure:
    """Milliseconds a token, or picture, of each codec: median over its points and splits.

    Filled triangles: encoding and decoding. Below them the same two added, parted into transforms
    and networks on the one hand and the lossless coder on the other. Markers, not stacked bars,
    because lengths do not add on a logarithmic axis; thin lines span all points.
    """
    styles = styles_of(points)
    rows = points[points["model"] == model]
    terms = terms_of(rows)
    tokens = rows[terms.rate] / rows["bits_per_token_file"]
    curves = [curve_name(*pair) for pair in zip(rows["codec"], rows["coder"], strict=True)]
    names = sorted(set(curves), key=name_order, reverse=True)
    with mpl.rc_context(PARAMETERS):
        figure, axes = new_figure(0.9 + 0.34 * len(names), width=width)
        for place, name in enumerate(names):
            mine = rows[[curve == name for curve in curves]]
            for column, (_, marker, shift) in _CLOCKS.items():
                times, y = mine[column] * tokens[mine.index], place + shift
                look = _clock_look(marker, styles[name].colour)
                axes.plot([times.min(), times.max()], [y, y], color=look["color"], linewidth=0.8)
                axes.plot(times.median(), y, **look)
        for label, marker, _ in _CLOCKS.values():
            axes.plot([], [], **_clock_look(marker, INK), label=label)
        axes.set(xscale="log", xlabel=f"ms per {terms.unit}", ylim=(-0.5, len(names) - 0.5))
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{model}: {rows['hardware'].iloc[0]}", loc="left")
        plain_logarithm(axes)
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def _clock_look(marker: str, colour: str) -> dict[str, Any]:
    face = PAPER if marker == "o" else colour
    return {"marker": marker, "color": colour, "mfc": face, "markersize": 4, "linestyle": ""}
