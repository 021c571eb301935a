"""Rate-distortion curves and what is read off them: BD-rate, and rate ratios at equal quality.

A curve is all points of one codec at one split: a learned codec over λ (`klt`), or the quantisers
of one lossless coder over their bits (`int + zstd`). Rates are file bits per token, or per picture
(`terms`). Equal cross-entropy means equal perplexity or, of image models, equal divergence.
Interpolation is of the logarithm of the rate against that of the loss, by which the cross-entropy
exceeds the uncoded model's, as in Bjøntegaard 2001 (VCEG-M33), whose decibels are logarithms of a
distortion too; it never leaves the measured range. Against the cross-entropy itself it says too
much, by more the farther points are apart (`benchmarks/interpolation.py`). Curves of several seeds
are averaged for each λ first.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import bjontegaard
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from splitcodec.codecs.catalogue import CODERS, is_baseline
from splitcodec.report.terms import TEXT, Terms, terms_of

ANCHOR = "int + zstd"
"""The curve that the others are compared with."""
ANCHOR_POINT = "int4"
"""The point of the anchor for the headline: int4 in groups of 32."""
MINIMUM_POINTS = 3
"""Akima interpolation of fewer points is a straight line, and a mean over it says little."""

_GRID = 512
_SMALL_LOSS = 0.002
"""Nats below which a loss is taken as it is and not its logarithm: noise may make it negative."""
BASELINES = [f"{kind} + {coder}" for kind in ("int", "fp16") for coder in reversed(CODERS)]


@dataclass(frozen=True)
class Curve:
    """The points of one codec of one model and split; `points` has the columns of points.csv."""

    model: str
    split: int
    name: str
    points: pd.DataFrame

    @cached_property
    def terms(self) -> Terms:
        """In what its rates and losses are told."""
        return terms_of(self.points)

    @property
    def rate(self) -> str:
        """The column of its rates."""
        return self.terms.rate

    @property
    def uncoded(self) -> float:
        """Cross-entropy of the uncoded model in nats."""
        return float(self.points["cross_entropy_uncoded"].iloc[0])

    @property
    def tokens_a_unit(self) -> float:
        """Tokens in what rates are told by: 1, or those of a picture at this split."""
        first = self.points.iloc[0]
        return float(first[self.rate] / first["bits_per_token_file"])

    @property
    def classifies(self) -> bool:
        """Whether all tokens of a picture share the divergence of one prediction."""
        return self.terms is not TEXT and self.points["feature_error"].isna().all()

    @cached_property
    def mean(self) -> pd.DataFrame:
        """One row a (codec, λ), averaged over seeds, in order of rate.

        All columns of numbers, the ends of intervals included, are averaged; and `optimal`: whether
        no other row has a lower rate and a lower cross-entropy.
        """
        groups = self.points.groupby(["codec", "lambda"], dropna=False, as_index=False)
        means = groups.mean(numeric_only=True)
        means = means.sort_values([self.rate, "cross_entropy"], ignore_index=True)
        optimal = pareto(means[self.rate], means["cross_entropy"])
        return means.assign(optimal=means.index.isin(optimal))

    @cached_property
    def front(self) -> pd.DataFrame:
        """The Pareto-optimal rows of `mean`: the cross-entropy falls strictly as the rate grows."""
        return self.mean[self.mean["optimal"]]

    @property
    def quality_range(self) -> tuple[float, float]:
        """Lowest and highest cross-entropy, in nats, between which the curve is known."""
        return float(self.front["cross_entropy"].min()), float(self.front["cross_entropy"].max())

    def losses(self, rows: pd.DataFrame) -> np.ndarray:
        """By how much the cross-entropy of rows exceeds the uncoded model's, in nats."""
        return rows["cross_entropy"].to_numpy() - self.uncoded

    @cached_property
    def _log_rate(self) -> PchipInterpolator:
        front = self.front.iloc[::-1]
        return PchipInterpolator(scaled(self.losses(front)), np.log(front[self.rate]))


@dataclass(frozen=True)
class BdRate:
    """Mean relative difference of rate at equal quality, in percent: negative is cheaper.

    `low` and `high` are the ends of the common range in nats of cross-entropy; `overlap` is its
    share of the range that the two curves span together.
    """

    percent: float
    low: float
    high: float
    overlap: float


@dataclass(frozen=True)
class RateRatio:
    """Rate of one curve over that of another at equal cross-entropy, within the common range.

    `smallest` is taken over the common range, at cross-entropy `smallest_at` (nats);
    `at_points` has the ratio at each point of the anchor that lies in the test's range, by codec
    (the points of a baseline's curve differ in nothing else).
    """

    smallest: float
    smallest_at: float
    at_points: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A curve against `int + zstd` of the same model and split; None where they do not compare."""

    curve: Curve
    bd: BdRate | None
    ratio: RateRatio | None


def curve_name(codec: str, coder: str) -> str:
    """Name of the curve a point belongs to: `klt`, `int + zstd`, `fp16 + raw`, …"""
    if not is_baseline(codec):
        return codec
    return f"{'int' if codec.startswith('int') else codec} + {coder}"


def name_order(name: str) -> tuple[bool, int, str]:
    """Sort key of curve names: learned codecs, then integers, then fp16; best coder first."""
    if name in BASELINES:
        return True, BASELINES.index(name), name
    return False, 0, name


def scaled(losses: np.ndarray) -> np.ndarray:
    """Losses in nats on the scale of interpolation: logarithmic, but linear where small."""
    return np.arcsinh(losses / _SMALL_LOSS)


def pareto(rates: ArrayLike, losses: ArrayLike) -> np.ndarray:
    """Places of the points that no other beats, by rising rate: the loss falls strictly."""
    rates, losses = np.asarray(rates), np.asarray(losses)
    order = np.lexsort((losses, rates))
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
    return order[losses[order] < best_before]


def curves_of(points: pd.DataFrame) -> list[Curve]:
    """All curves in a table of points, by model and split, in the order of `name_order`."""
    names = [curve_name(*pair) for pair in zip(points["codec"], points["coder"], strict=True)]
    groups = points.groupby(["model", "split", pd.Series(names, points.index)])
    curves = [Curve(model, int(split), name, rows) for (model, split, name), rows in groups]
    return sorted(curves, key=lambda curve: (curve.model, curve.split, name_order(curve.name)))


def bd_rate(anchor: Curve, test: Curve) -> BdRate | None:
    """Bjøntegaard delta rate of `test` against `anchor` with Akima interpolation.

    None where either curve has fewer than three Pareto-optimal points or they do not overlap.
    """
    low, high = _common(anchor, test)
    if min(len(anchor.front), len(test.front)) < MINIMUM_POINTS or low >= high:
        return None
    places = ((c.front[c.rate].to_numpy(), c.losses(c.front)) for c in (anchor, test))
    percent = bd_percent(*places)
    ends = [*anchor.quality_range, *test.quality_range]
    return BdRate(percent, low, high, (high - low) / (max(ends) - min(ends)))


def bd_percent(anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """The same of Pareto-optimal points whose ranges overlap: rates, and losses in nats."""
    (anchor_rates, anchor_losses), (rates, losses) = anchor, test
    return float(
        bjontegaard.bd_rate(
            anchor_rates,
            -scaled(anchor_losses),
            rates,
            -scaled(losses),
            method="akima",
            require_matching_points=False,
            min_overlap=0,
        )
    )


def rate_at(curve: Curve, cross_entropy: float) -> float | None:
    """File rate of `curve` at `cross_entropy` nats, by monotone interpolation (PCHIP).

    None outside the measured range.
    """
    low, high = curve.quality_range
    if not low <= cross_entropy <= high:
        return None
    return float(_rates(curve, np.array([cross_entropy]))[0])


def rate_at_divergence(curve: Curve, kl: float) -> float | None:
    """File rate of `curve` at a divergence in nats, by interpolation of logarithms.

    None outside the measured range.
    """
    points = curve.mean[curve.mean["kl"] > 0].drop_duplicates("kl").sort_values("kl")
    if len(points) < 2 or not points["kl"].iloc[0] <= kl <= points["kl"].iloc[-1]:
        return None
    log_rate = PchipInterpolator(np.log(points["kl"]), np.log(points[curve.rate]))
    return math.exp(float(log_rate(math.log(kl))))


def rate_at_level(curve: Curve, level: float) -> float | None:
    """File rate where the quality is worse than the uncoded model's by `level` (`Terms.nats`)."""
    if curve.terms is TEXT:
        return rate_at(curve, curve.uncoded + curve.terms.nats(level))
    return rate_at_divergence(curve, level)


def rate_ratio(test: Curve, anchor: Curve) -> RateRatio | None:
    """Rate of `test` over `anchor` at equal quality; None where their ranges do not meet."""
    low, high = _common(anchor, test)
    if low > high:
        return None
    inside = np.concatenate([curve.front["cross_entropy"] for curve in (test, anchor)])
    inside = inside[(inside >= low) & (inside <= high)]
    qualities = np.union1d(inside, np.linspace(low, high, _GRID))
    ratios = _rates(test, qualities) / _rates(anchor, qualities)
    at_points = {
        row["codec"]: rate / row[anchor.rate]
        for row in anchor.mean.to_dict("records")
        if (rate := rate_at(test, row["cross_entropy"])) is not None
    }
    smallest = int(np.argmin(ratios))
    return RateRatio(float(ratios[smallest]), float(qualities[smallest]), at_points)


def compare(points: pd.DataFrame) -> list[Comparison]:
    """Every curve of the table against its anchor, in the order of `curves_of`."""
    curves = curves_of(points)
    anchors = {(curve.model, curve.split): curve for curve in curves if curve.name == ANCHOR}
    found = []
    for curve in curves:
        anchor = anchors.get((curve.model, curve.split))
        known = anchor is not None and curve.name != ANCHOR
        bd = bd_rate(anchor, curve) if known else None
        found.append(Comparison(curve, bd, rate_ratio(curve, anchor) if known else None))
    return found


def _common(one: Curve, other: Curve) -> tuple[float, float]:
    ranges = (one.quality_range, other.quality_range)
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _rates(curve: Curve, cross_entropies: np.ndarray) -> np.ndarray:
    if len(curve.front) == 1:  # only ever asked at its own point
        return np.full(len(cross_entropies), curve.front[curve.rate].iloc[0])
    return np.exp(curve._log_rate(scaled(cross_entropies - curve.uncoded)))
