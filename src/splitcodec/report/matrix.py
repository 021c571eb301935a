"""BD-rate of every curve against every other, with intervals.

Intervals are 95 % percentile bootstraps. Documents are resampled where evaluation files have sums
by document: the same ones for both curves, since both coded the same text, so what documents have
in common cancels. Otherwise seeds are, where curves have several; or else there are none.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from splitcodec.errors import InputError
from splitcodec.files import read_json
from splitcodec.report.curves import MINIMUM_POINTS, Curve, bd_percent, curves_of, pareto

RESAMPLES = 200
DOCUMENTS, SEEDS = "documents", "seeds"
_SUMS = ("tokens", "bits", "predicted_tokens", "cross_entropy", "cross_entropy_uncoded")
_POINT = ["model", "split", "codec", "coder", "lambda", "seed"]
_NO_VALUE = -1.0

Key = tuple[Any, ...]
Place = tuple[np.ndarray, np.ndarray]
"""Rates and losses in nats of the points of a curve, each (points,)."""


@dataclass(frozen=True)
class Cell:
    """BD-rate in percent, and the ends of its interval, if there is one."""

    percent: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Matrix:
    """Of one model and split: `cells[test, anchor]`; what was resampled, or ''."""

    model: str
    split: int
    names: list[str]
    cells: dict[tuple[str, str], Cell]
    resampled: str


def read_documents(evaluations: list[Path]) -> dict[Key, np.ndarray]:
    """Sums by document, (documents, 5), of each point that has them, from evaluation files."""
    found = {}
    for path in evaluations:
        try:
            for point in read_json(path)["points"]:
                rows = [[row[name] for name in _SUMS] for row in point.get("by_document", [])]
                if rows:
                    found[_key(point)] = np.array(rows, float)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} has no points of an evaluation ({error}); rerun it") from None
    return found


def matrices(
    points: pd.DataFrame, documents: dict[Key, np.ndarray], resamples: int = RESAMPLES
) -> list[Matrix]:
    """One a model and split that has two curves of three Pareto-optimal points or more."""
    found = []
    for (model, split), rows in points.groupby(["model", "split"]):
        curves = [c for c in curves_of(rows) if len(c.front) >= MINIMUM_POINTS]
        if len(curves) > 1:
            found.append(_matrix(model, int(split), curves, documents, resamples))
    return found


def _matrix(
    model: str, split: int, curves: list[Curve], documents: dict[Key, np.ndarray], resamples: int
) -> Matrix:
    resampled, draws = _draws(curves, documents, resamples)
    cells = {}
    for one, other in combinations(curves, 2):
        ratio = _log_ratio(_means(one), _means(other))
        if ratio is None:
            continue
        pairs = zip(draws.get(one.name, []), draws.get(other.name, []), strict=True)
        low, high = _interval([_log_ratio(*pair) for pair in pairs])
        cells[other.name, one.name] = _cell(ratio, low, high)
        cells[one.name, other.name] = _cell(-ratio, -high, -low)
    return Matrix(model, split, [curve.name for curve in curves], cells, resampled)


def _interval(drawn: list[float | None]) -> tuple[float, float]:
    """95 % of the draws; NaN where they are all alike, or many curves did not overlap."""
    ratios = [ratio for ratio in drawn if ratio is not None]
    if len(ratios) < 0.9 * len(drawn) or len(set(ratios)) < 2:
        return math.nan, math.nan
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _cell(*ratios: float) -> Cell:
    """From logarithms of ratios."""
    return Cell(*(None if math.isnan(ratio) else 100 * math.expm1(ratio) for ratio in ratios))


def _draws(
    curves: list[Curve], documents: dict[Key, np.ndarray], resamples: int
) -> tuple[str, dict[str, list[Place]]]:
    """What was resampled; of each curve, rates and losses of its points in each draw."""
    generator = np.random.default_rng(0)
    tables = {
        c.name: [documents.get(_key(row)) for row in c.points.to_dict("records")] for c in curves
    }
    counts = {None if t is None else len(t) for own in tables.values() for t in own}
    if None not in counts and len(counts) == 1:
        size = counts.pop()
        drawn = generator.integers(size, size=(resamples, size))
        return DOCUMENTS, {c.name: list(_of_documents(c, tables[c.name], drawn)) for c in curves}
    if any(c.points["seed"].nunique() > 1 for c in curves):
        return SEEDS, {c.name: list(_of_seeds(c, generator, resamples)) for c in curves}
    return "", {}


def _of_documents(curve: Curve, tables: list[np.ndarray], drawn: np.ndarray) -> Iterator[Place]:
    """Rates and losses with the documents of each row of `drawn`."""
    sums = np.stack([table[drawn].sum(1) for table in tables])  # (points, draws, 5)
    rates, losses = sums[..., 1] / sums[..., 0], (sums[..., 3] - sums[..., 4]) / sums[..., 2]
    codec, weight = (curve.points[name] for name in ("codec", "lambda"))
    groups = curve.points.groupby([codec, weight.fillna(_NO_VALUE)]).indices.values()
    for number in range(len(drawn)):
        means = [(rates[g, number].mean(), losses[g, number].mean()) for g in groups]
        yield tuple(np.array(means).T)


def _of_seeds(curve: Curve, generator: np.random.Generator, resamples: int) -> Iterator[Place]:
    """The same with as many seeds as there are, drawn with replacement; they stay if it is one."""
    seeds = curve.points["seed"].dropna().unique()
    if len(seeds) < 2:
        yield from [_means(curve)] * resamples
        return
    columns = ["bits_per_token_file", "cross_entropy"]
    by_weight = curve.points.groupby(["lambda", "seed"])[columns].mean().unstack("seed").dropna()
    for _ in range(resamples):
        chosen = list(generator.choice(seeds, len(seeds)))
        rates, nats = (by_weight[name][chosen].mean(axis=1).to_numpy() for name in columns)
        yield rates, nats - curve.uncoded


def _means(curve: Curve) -> Place:
    return curve.mean["bits_per_token_file"].to_numpy(), curve.losses(curve.mean)


def _log_ratio(anchor: Place, test: Place) -> float | None:
    """ln(1 + BD-rate), whose sign turns when test and anchor change places."""
    (anchor_rates, anchor_losses), (rates, losses) = (
        [values[pareto(*place)] for values in place] for place in (anchor, test)
    )
    low, high = max(anchor_losses.min(), losses.min()), min(anchor_losses.max(), losses.max())
    if min(len(anchor_rates), len(rates)) < MINIMUM_POINTS or low >= high:
        return None
    percent = bd_percent((anchor_rates, anchor_losses), (rates, losses))
    return math.log1p(percent / 100)


def _key(point: dict[str, Any]) -> Key:
    """What names a point in evaluation files and in the table alike."""
    return tuple(_NO_VALUE if pd.isna(point[name]) else point[name] for name in _POINT)
