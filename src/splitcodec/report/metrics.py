"""What quality can be measured by: the vertical axes of rate-distortion figures."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from splitcodec.errors import SettingsError
from splitcodec.report.terms import TEXT, terms_of


@dataclass(frozen=True)
class Metric:
    """A quality: `function` of a column of the table of points, and of its interval's ends.

    `uncoded` is its value for the uncoded model, from the uncoded cross-entropy in nats; None where
    that is not known. `edge` is where the axis of a figure ends, as a multiple of that value or, if
    there is none or it is 0, as it stands: points beyond are useless, and would flatten the rest.
    """

    name: str
    label: str
    column: str
    uncoded: Callable[[float], float | None]
    low: str | None = None
    high: str | None = None
    function: Callable[[np.ndarray], np.ndarray] = np.asarray
    logarithmic: bool = False
    higher_is_better: bool = False
    edge: float | None = None
    digits: int = 3

    def values(self, rows: pd.DataFrame) -> np.ndarray:
        """Of each row."""
        return self.function(rows[self.column].to_numpy(float))

    def interval(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
        """Both ends of each row's 95 % interval; None for a metric without."""
        if self.low is None or self.high is None:
            return None
        low, high = (self.function(rows[end].to_numpy(float)) for end in (self.low, self.high))
        return low, high

    def limit(self, cross_entropy_uncoded: float) -> float | None:
        """Where an axis ends on the side of bad quality."""
        if self.edge is None:
            return None
        uncoded = self.uncoded(cross_entropy_uncoded)
        return self.edge * uncoded if uncoded and not self.higher_is_better else self.edge


PERPLEXITY = Metric(
    "perplexity",
    "perplexity",
    "cross_entropy",
    math.exp,
    "cross_entropy_low",
    "cross_entropy_high",
    np.exp,
    logarithmic=True,
    edge=2.0,
    digits=2,
)
KL = Metric(
    "kl",
    "KL divergence, nats per token",
    "kl",
    lambda _: 0.0,
    "kl_low",
    "kl_high",
    logarithmic=True,
    edge=1.0,
    digits=4,
)
AGREEMENT = Metric(
    "top1_agreement",
    "top-1 agreement with uncoded",
    "top1_agreement",
    lambda _: 1.0,
    higher_is_better=True,
    edge=0.5,
)
PICTURE_KL = replace(KL, label="KL divergence, nats per picture")
# An encoder's divergence is half the relative square error of its features.
FEATURE_ERROR = replace(
    KL,
    name="feature_error",
    label="relative square error of features",
    function=lambda nats: 2 * np.asarray(nats),
)


def metrics_of(points: pd.DataFrame) -> list[Metric]:
    """What one model's quality is measured by, the most telling first, accuracies last."""
    if terms_of(points) is TEXT:
        first = [PERPLEXITY, KL, AGREEMENT]
    elif points["feature_error"].notna().any():
        first = [FEATURE_ERROR]
    else:
        first = [PICTURE_KL, AGREEMENT]
    accuracies = [name for name in points if "accuracy" in name and points[name].notna().any()]
    ends = {
        name: [end if (end := f"{name}_{side}") in points else None for side in ("low", "high")]
        for name in accuracies
    }
    return first + [
        Metric(
            name,
            name.replace("_", " "),
            name,
            lambda _: None,
            *ends[name],
            higher_is_better=True,
        )
        for name in accuracies
        if not name.endswith(("_low", "_high", "_uncoded"))
    ]


def metric_named(points: pd.DataFrame, name: str | None) -> Metric:
    """One of `metrics_of`, or their first; raises SettingsError that lists them."""
    known = {metric.name: metric for metric in metrics_of(points)}
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise SettingsError(f"no metric {name!r}; there are {', '.join(known)}")
    return known[name]
