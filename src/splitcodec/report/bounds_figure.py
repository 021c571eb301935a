"""Bounds against the rate, split by split, and how they correlate: as the paper draws them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from scipy.stats import pearsonr, rankdata

from splitcodec.report.curves import Curve, curves_of, rate_at_level
from splitcodec.report.figures import INCREASE
from splitcodec.report.measured import read_bounds
from splitcodec.report.style import FAINT, INK, PARAMETERS, WIDTH, new_figure, save
from splitcodec.report.table import read_points
from splitcodec.report.terms import terms_of

CODEC = "klt"
"""The codec whose rate is compared: a closed form, the same at every split."""
_NUMBER_SIZE, _GAP = 7, 2.5
"""In points."""
_CORNERS = {
    (x, y): {"ha": {1: "left", -1: "right"}[x], "va": {1: "bottom", -1: "top"}[y]}
    for y in (1, -1)
    for x in (1, -1)
}
"""Of a point, on which its number may stand, and how it is aligned there."""
_FEWEST = 4
"""With fewer splits a correlation has no interval."""


Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Correlation:
    """Pearson and Spearman coefficients with 95 % intervals (low, high), over `count` splits.

    No interval where splits are too alike to tell, or where all lie on one line.
    """

    count: int
    pearson: float
    pearson_interval: Interval
    spearman: float
    spearman_interval: Interval


def correlation(first: np.ndarray, second: np.ndarray) -> Correlation | None:
    """Of two statistics in the order of splits; None for fewer than four or a constant statistic.

    Intervals by Fisher's transform, Spearman's with the variance of Bonett and Wright (2000), from
    as many splits as count: neighbours are alike.
    """
    first, second = np.asarray(first), np.asarray(second)
    if len(first) < _FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    linear, likely = _coefficient(first, second, lambda _: 1.0)
    ranked, rank_wise = _coefficient(
        rankdata(first), rankdata(second), lambda r: math.sqrt(1 + r**2 / 2)
    )
    return Correlation(len(first), linear, likely, ranked, rank_wise)


def _coefficient(
    first: np.ndarray, second: np.ndarray, factor: Callable[[float], float]
) -> tuple[float, Interval]:
    """Pearson's coefficient and its interval, whose width is `factor` times Fisher's."""
    found, count = float(pearsonr(first, second)[0]), effective_count(first, second)
    if count <= _FEWEST - 1 or math.isclose(abs(found), 1):
        return found, None
    reach = 1.96 * factor(found) / math.sqrt(count - 3)
    middle = math.atanh(found)
    return found, (math.tanh(middle - reach), math.tanh(middle + reach))


def effective_count(first: np.ndarray, second: np.ndarray) -> float:
    """How many independent pairs correlate as surely as these, at most their number.

    n (1 − r₁ r₂) / (1 + r₁ r₂) with the autocorrelation of neighbours in each (Bartlett 1946;
    Bretherton et al. 1999).
    """
    both = _autocorrelation(first) * _autocorrelation(second)
    return len(first) * min(1.0, (1 - both) / (1 + both))


def _autocorrelation(values: np.ndarray) -> float:
    deviation = values - values.mean()
    return float((deviation[1:] * deviation[:-1]).sum() / np.square(deviation).sum())


def statistics_by_split(
    points: pd.DataFrame, model: str, bounds: list[dict[str, Any]]
) -> pd.DataFrame:
    """A row a split: the rate at a loss of `INCREASE`, and each bound; gaps where none is known."""
    curves = {c.split: c for c in curves_of(points) if (c.model, c.name) == (model, CODEC)}
    rows = [_row(item, curves.get(item["split"])) for item in bounds]
    return pd.DataFrame(sorted(rows, key=lambda row: row["split"]))


def _row(bound: dict[str, Any], curve: Curve | None) -> dict[str, Any]:
    rate = None if curve is None else rate_at_level(curve, INCREASE)
    covariance = bound["covariance"]["representation_bits_per_token"]
    if curve is not None and covariance is not None:
        covariance *= curve.tokens_a_unit
    norms = [
        row["lipschitz"]["spectral_norm"]
        for row in bound["covariance"]["codecs"]
        if row["codec"] == CODEC and row.get("lipschitz", {}).get("spectral_norm") is not None
    ]
    return {
        "split": bound["split"],
        "rate": rate,
        "covariance bound": covariance,
        "Rademacher complexity": bound["rademacher"]["value"],
        "spectral norm": float(np.median(norms)) if norms else None,
    }


def draw_bounds(points: Path, bounds: list[Path], directory: Path) -> list[Path]:
    """Draw `bounds-<model>` for each model into `directory`; returns the SVG and PNG files."""
    table, paths = read_points(points), []
    limits = read_bounds(bounds)
    for model in sorted({item["model"] for item in limits}):
        mine = [item for item in limits if item["model"] == model]
        paths += save(bounds_by_rate(table, model, mine), directory / f"bounds-{model}")
    return paths


def bounds_by_rate(
    points: pd.DataFrame, model: str, bounds: list[dict[str, Any]], width: float = WIDTH
) -> Figure:
    """Each bound against the rate at +5 % perplexity, or 0.05 nats of divergence of image models,
    a point a split, with both correlations."""
    terms = terms_of(points[points["model"] == model])
    table = statistics_by_split(points, model, bounds)
    return draw_statistics(table, f"bits per {terms.unit}\nat {terms.level(INCREASE)}", width)


def draw_statistics(table: pd.DataFrame, rate: str, width: float = WIDTH) -> Figure:
    """The columns of `statistics_by_split` against its rate, which is said in words by `rate`.

    A thin line goes from split to split; splits whose number would hide another have none.
    """
    names = [name for name in table if name not in ("split", "rate")]
    with mpl.rc_context(PARAMETERS):
        figure, panels = new_figure(2.5, len(names), width, sharey=True)
        for axes, name in zip(panels, names, strict=True):
            rows = table[["split", "rate", name]].astype(float).dropna()
            if rows.empty:
                axes.set(xlabel=name, xticks=[])
                axes.set_title("no split where both are known", fontsize=7)
                continue
            axes.plot(rows[name], rows["rate"], "o-", color=INK, markersize=3.5, linewidth=0.4)
            axes.set(xlabel=name)
            axes.margins(0.15)
            axes.set_title(_say(rows[name], rows["rate"]), fontsize=7)
        if table["rate"].isna().all():
            panels[0].set_yticks([])
        panels[0].set_ylabel(f"{CODEC}: {rate}")
        figure.draw_without_rendering()  # where points lie is known from here on
        for axes, name in zip(panels, names, strict=True):
            rows = table[["split", "rate", name]].astype(float).dropna()
            _number(axes, rows["split"], rows[[name, "rate"]].to_numpy())
    return figure


def _number(axes: Axes, splits: pd.Series, points: np.ndarray) -> None:
    """Write its split at a corner of each of `points` (splits, 2) that has room for it."""
    places = axes.transData.transform(points) * 72 / axes.figure.dpi if len(points) else []
    taken = [Bbox([place - _GAP, place + _GAP]) for place in places]
    for split, point, place in zip(splits, points, places, strict=True):
        text = f"{split:.0f}"
        size = np.array([0.6 * len(text), 0.8]) * _NUMBER_SIZE
        for corner, aligned in _CORNERS.items():
            ends = place + _GAP * np.array(corner), place + (_GAP + size) * corner
            box = Bbox([np.minimum(*ends), np.maximum(*ends)])
            if not box.count_overlaps(taken):
                taken.append(box)
                offset = {"xytext": _GAP * np.array(corner), "textcoords": "offset points"}
                axes.annotate(text, point, fontsize=_NUMBER_SIZE, color=FAINT, **offset, **aligned)
                break


def _say(first: pd.Series, second: pd.Series) -> str:
    found = correlation(first, second)
    if found is None:
        few = len(first) < _FEWEST
        return f"fewer than {_FEWEST} splits" if few else "constant: no correlation"
    pearson, spearman = map(_interval, (found.pearson_interval, found.spearman_interval))
    return f"Pearson {found.pearson:.2f}{pearson}\nSpearman {found.spearman:.2f}{spearman}"


def _interval(limits: Interval) -> str:
    return f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else ""
