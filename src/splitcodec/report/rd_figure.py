"""The rate-distortion figure: a quality against the rate, of all codecs at one split."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from splitcodec.report.curves import ANCHOR, Curve, bd_rate, curves_of
from splitcodec.report.headlines import headlines
from splitcodec.report.metrics import (
    FEATURE_ERROR,
    KL,
    PERPLEXITY,
    PICTURE_KL,
    Metric,
    metric_named,
)
from splitcodec.report.possible import rate_distortion_band, times_possible
from splitcodec.report.style import (
    FAINT,
    INK,
    PAPER,
    PARAMETERS,
    STROKES,
    WIDTH,
    Style,
    new_figure,
    plain_logarithm,
    styles_of,
)
from splitcodec.report.terms import TEXT, reference_lines

_ROOMY = 4.5
"""Inches below which a figure has no room for more than its curves."""
_CHARACTERS = 95
"""In a line above the legend of a roomy figure."""


def rd_curve(
    points: pd.DataFrame,
    model: str,
    split: int,
    references: dict[str, Any] | None = None,
    metric: Metric | None = None,
    bounds: dict[str, Any] | None = None,
    width: float = WIDTH,
    pictures: Sequence[Curve] = (),
) -> Figure:
    """`metric` against file bits per token or picture, rates logarithmic, of all codecs at a split.

    Points beyond the metric's limit, such as twice the uncoded perplexity, are named at the edge.
    Vertical bars are 95 % intervals over documents of the level; all codecs see the same documents,
    so differences between codecs are known better than the bars suggest. `references` is
    references/<model>.json; `bounds`, bounds/<model>/split<k>.json, adds the rate-distortion
    functions where the metric is the divergence, in which they are stated, and elsewhere says how
    far from them codecs are; `pictures` are the curves of pictures sent as files. Without a metric
    it is the model's first.
    """
    styles = styles_of(points)
    metric = metric or metric_named(points[points["model"] == model], None)
    own = [c for c in curves_of(points) if (c.model, c.split) == (model, split)]
    curves, nats, terms = [*own, *pictures], own[0].uncoded, own[0].terms
    roomy = width >= _ROOMY
    with mpl.rc_context(PARAMETERS):
        figure, axes = new_figure(3.9 if roomy else 0.6 + 0.95 * width, width=width)
        axes.set(xscale="log", yscale="log" if metric.logarithmic else "linear")
        axes.set(xlabel=f"bits per {terms.unit} (file)", ylabel=metric.label)
        axes.set_ylim(*_range(metric, curves, nats, references))
        if uncoded := metric.uncoded(nats):
            axes.axhline(uncoded, color=INK, linewidth=0.8, label="uncoded", zorder=1)
        for curve in curves:
            _draw_curve(axes, metric, curve, styles[curve.name], _legend_label(curve, curves))
        beyond = _points_beyond(metric, own, metric.limit(nats))
        _title(axes, f"{model}, split {split}", beyond if roomy else "")
        if references:
            _draw_references(axes, references, metric)
        if metric.name == KL.name and bounds and bounds.get("rate_distortion"):
            _draw_band(axes, bounds["rate_distortion"], own[0])
        _plain_axes(axes, metric, uncoded)
        said = ""
        if roomy and metric in (PERPLEXITY, PICTURE_KL, FEATURE_ERROR):
            said = _ratios(own, (bounds or {}).get("rate_distortion"))
        figure.legend(loc="outside lower center", ncols=3 if roomy else 2, title=said)
    return figure


def _range(
    metric: Metric, curves: list[Curve], nats: float, references: dict[str, Any] | None
) -> tuple[float, float]:
    """Limits of the axis: from the uncoded value, or the best point, to the worst that counts."""
    values = [value for curve in curves for value in metric.values(curve.points)]
    limit, uncoded = metric.limit(nats), metric.uncoded(nats)
    if metric.higher_is_better:
        low = min(values) - 0.02
        return max(limit or low, low), max([uncoded or 0, *values]) + 0.02
    if not uncoded:
        return min(max(min(values) / 2, 1e-5), limit / 10), min(1.3 * max(values), limit)
    bottom = min(uncoded * 0.96, min(values) * 0.98)
    if references:
        bottom = min(bottom, math.exp(references["cross_entropy_low"]) * 0.99)
    return bottom, min(limit, max(1.1 * uncoded, 1.08 * max(values)))


def _legend_label(curve: Curve, curves: list[Curve]) -> str:
    if curve.name == ANCHOR:
        return f"{curve.name} (anchor)"
    delta = next((bd_rate(anchor, curve) for anchor in curves if anchor.name == ANCHOR), None)
    return curve.name if delta is None else f"{curve.name} (BD {_signed(delta.percent)} %)"


def _signed(percent: float) -> str:
    return f"{percent:+.0f}".replace("-", "−")


def _draw_curve(axes: Axes, metric: Metric, curve: Curve, style: Style, label: str) -> None:
    """The mean over seeds as a line through its Pareto-optimal points; every point as a marker."""
    mean, rate = curve.mean, curve.rate
    color, stroke = style.colour, style.marker in STROKES
    if ends := metric.interval(mean):
        axes.vlines(mean[rate], *ends, color=color, linewidth=0.6, alpha=0.35)
    axes.plot(curve.front[rate], metric.values(curve.front), linestyle=style.line, color=color)
    axes.plot(
        curve.points[rate],
        metric.values(curve.points),
        style.marker,
        color=color,
        alpha=0.5 if len(curve.points) > len(mean) else 1,
        markeredgecolor=color if stroke else PAPER,
        markeredgewidth=1.1 if stroke else 0.4,
        zorder=3,
    )
    axes.plot([], [], linestyle=style.line, marker=style.marker, color=color, label=label)


def _points_beyond(metric: Metric, curves: list[Curve], limit: float | None) -> str:
    """Which points lie beyond the limit of the axis, in words."""
    beyond = {}
    for curve in curves:
        names = zip(curve.mean["codec"], curve.mean["lambda"], strict=True)
        for (codec, value), found in zip(names, metric.values(curve.mean), strict=True):
            if limit is not None and (found < limit if metric.higher_is_better else found > limit):
                beyond[codec if math.isnan(value) else f"{codec} λ={value:g}"] = found
    named = [f"{name} ({value:,.3g})" for name, value in beyond.items()]
    edge = "below" if metric.higher_is_better else "above"
    more = ", …" if len(named) > 4 else ""
    return f"{edge} the edge: {', '.join(named[:4])}{more}" if named else ""


def _title(axes: Axes, left: str, right: str) -> None:
    axes.set_title(left, loc="left")
    if right:
        axes.set_title(right, loc="right", fontsize=7, color=FAINT)


def _ratios(curves: list[Curve], functions: list[dict[str, float]] | None) -> str:
    """The rate of each learned codec at the quality of int4 + zstd, in words: relative to that
    point's, and to what the rate-distortion function of a Gaussian needs."""
    found = headlines(pd.concat([curve.points for curve in curves]))
    if not found:
        return ""
    named = {curve.name: curve for curve in curves}
    possible = [times_possible(named[i.name], functions or [], i.divergence) for i in found]
    ratios = [
        f"{item.name} {item.ratio:.2f}" + (f" ({times:.2f})" if times else "")
        for item, times in zip(found, possible, strict=True)
    ]
    terms, quality = found[0].terms, found[0].quality
    value = f"{quality:.2f}" if terms is TEXT else f"{quality:.2g} nats"
    text = f"bits at the {terms.quality} of int4 + zstd, {value}, relative to it"
    text += " (and to R(D)):" if any(possible) else ":"
    unbroken = ", ".join(ratio.replace(" ", "\xa0") for ratio in ratios)
    return f"{text}\n{textwrap.fill(unbroken, _CHARACTERS)}"


def _draw_references(axes: Axes, references: dict[str, Any], metric: Metric) -> None:
    """What sending the token ids costs, for a receiver that holds the front."""
    lines = reference_lines(references)
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
    if metric is PERPLEXITY:
        low, high = (math.exp(references[f"cross_entropy_{end}"]) for end in ("low", "high"))
        axes.axhspan(low, high, color=FAINT, alpha=0.12, linewidth=0)


def _draw_band(axes: Axes, functions: list[dict[str, float]], curve: Curve) -> None:
    """Between Shannon's lower bound and the Gaussian rate-distortion function, as `curve` tells."""
    band = rate_distortion_band(functions, curve)
    if not band:
        return
    low, high, distortions = zip(*band, strict=True)
    label = "possible, token by token"
    axes.fill_betweenx(distortions, low, high, color=FAINT, alpha=0.3, linewidth=0, label=label)


def _plain_axes(axes: Axes, metric: Metric, uncoded: float | None) -> None:
    """Plain numbers on both axes; for perplexity also its increase in percent, on the right."""
    if metric.logarithmic and not uncoded:
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(7))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    plain_logarithm(axes)
    if metric is PERPLEXITY:
        _increase_axis(axes, uncoded)


def _increase_axis(axes: Axes, uncoded: float) -> None:
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
