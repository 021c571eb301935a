"""How far from possible: rates of points against rate-distortion functions, and against a link.

The functions (`bounds.rate_distortion`) say how many bits a token needs at a distortion in nats
when tokens are coded one by one. Distortion is the divergence to second order, so a point is
compared at its KL. A codec that uses what came before may need less than they say.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from splitcodec.report.curves import Curve, curves_of, rate_at_divergence


@dataclass(frozen=True)
class Gap:
    """A point's rate and divergence in nats, and the rates that the functions give there."""

    model: str
    split: int
    name: str
    rate_weight: float | None
    kl: float
    rate: float
    shannon: float
    gaussian: float

    @property
    def place(self) -> tuple[str, int]:
        """Model and split."""
        return self.model, self.split

    @property
    def ratio(self) -> float:
        """Rate relative to the Gaussian function; infinite where that is 0."""
        return self.rate / self.gaussian if self.gaussian else math.inf


def gaps(points: pd.DataFrame, bounds: list[dict[str, Any]]) -> list[Gap]:
    """Of the Pareto-optimal points of every learned codec whose divergence the functions reach."""
    functions = {
        (item["model"], item["split"]): item["rate_distortion"]
        for item in bounds
        if item.get("rate_distortion")
    }
    return [
        gap
        for curve in curves_of(points[points["lambda"].notna()])
        if (curve.model, curve.split) in functions
        for gap in _of_curve(curve, functions[curve.model, curve.split])
    ]


def times_possible(curve: Curve, functions: list[dict[str, float]], kl: float) -> float | None:
    """The rate of `curve` at a divergence in nats, relative to the Gaussian function there.

    None where the curve, or the functions, do not reach it.
    """
    rate = rate_at_divergence(curve, kl)
    needed = _functions_at(rate_distortion_band(functions, curve), kl)
    return rate / needed[1] if rate and needed and needed[1] else None


def _of_curve(curve: Curve, functions: list[dict[str, float]]) -> list[Gap]:
    band, place = rate_distortion_band(functions, curve), (curve.model, curve.split, curve.name)
    return [
        Gap(*place, row["lambda"], row["kl"], row[curve.rate], *needed)
        for row in curve.front.to_dict("records")
        if (needed := _functions_at(band, row["kl"]))
    ]


def _functions_at(band: list[tuple[float, float, float]], kl: float) -> tuple[float, float] | None:
    """Shannon's bound and the Gaussian rate, which between the distortions that are known follow
    the logarithm of the distortion; None beyond them."""
    if not band or not band[0][2] <= kl <= band[-1][2]:
        return None
    shannon, gaussian, distortions = zip(*band, strict=True)
    at = math.log(kl), np.log(distortions)
    return float(np.interp(*at, shannon)), float(np.interp(*at, gaussian))


def rate_distortion_band(
    functions: list[dict[str, float]], curve: Curve
) -> list[tuple[float, float, float]]:
    """Shannon's bound and the Gaussian rate at each distortion, in the terms of `curve`.

    Empty for a classifier of pictures: the functions begin at a thousandth of a nat a token, which
    the tokens of a picture add up to more than the second order that they rest on can tell.
    """
    if curve.classifies:
        return []
    return [
        (
            item["shannon_bits_per_token"] * curve.tokens_a_unit,
            item["gaussian_bits_per_token"] * curve.tokens_a_unit,
            item["distortion"],
        )
        for item in functions
    ]


@dataclass(frozen=True)
class Timing:
    """The cheapest point of a curve that is good enough, and on which links it pays.

    `against_raw` and `against_integers`: bandwidth in Mbit/s below which sending this point takes
    less time than raw fp16 or int4 with Zstandard, coding included; infinite where its coding is
    no slower either, zero where it sends more, None where the experiment has no such point.
    """

    curve: Curve
    point: dict[str, Any]
    against_raw: float | None
    against_integers: float | None


def timings(points: pd.DataFrame, level: float) -> list[Timing]:
    """A line for each curve that has a point no worse than by `level` (`Terms.nats`)."""
    found = []
    for curve in curves_of(points):
        rows = curve.points
        rise = rows["cross_entropy"] - rows["cross_entropy_uncoded"]
        rows = rows[rise <= curve.terms.nats(level)]
        if len(rows):
            point = rows.sort_values(curve.rate).iloc[0].to_dict()
            near = points[(points["model"] == curve.model) & (points["split"] == curve.split)]
            others = (("fp16", "raw"), ("int4", "zstd"))
            found.append(Timing(curve, point, *(break_even(point, near, *o) for o in others)))
    return found


def break_even(point: dict[str, Any], points: pd.DataFrame, codec: str, coder: str) -> float | None:
    """Mbit/s at which `point` and another take the same time a token; see Timing."""
    rows = points[(points["codec"] == codec) & (points["coder"] == coder)]
    if rows.empty:
        return None
    other = rows.iloc[0]
    saved = other["bits_per_token_file"] - point["bits_per_token_file"]
    slower = coding_ms(point) - coding_ms(other)
    if saved <= 0:
        return 0.0
    return saved / slower / 1000 if slower > 0 else math.inf


def coding_ms(point: Any) -> float:
    """Encoding and decoding, in ms a token."""
    return point["encode_ms_per_token"] + point["decode_ms_per_token"]
