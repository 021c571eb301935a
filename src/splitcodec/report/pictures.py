"""The rival of every split of an image model as curves: the picture itself, sent as a file.

A curve is a format over its qualities (`evaluation.pictures`). It belongs to no split, so it stands
in the figures of all of them; the table of points, whose rows are codecs, does not have it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from splitcodec.codecs.catalogue import is_baseline
from splitcodec.errors import InputError
from splitcodec.files import read_json
from splitcodec.report.curves import ANCHOR, Curve, curves_of, rate_at_level

NAMES = {"jpeg": "JPEG", "webp": "WebP"}
_OF_SOME_MODELS = ("accuracy", "accuracy_low", "accuracy_high", "feature_error")


@dataclass(frozen=True)
class Rivalry:
    """A curve's rate at a loss, and how it compares with each format's, if that is known."""

    curve: Curve
    rate: float
    ratios: dict[str, float | None]


def read_pictures(paths: list[Path]) -> dict[str, list[Curve]]:
    """Curves of each model, from what the verb `pictures` wrote."""
    found: dict[str, list[Curve]] = {}
    for path in paths:
        try:
            for curve in _curves(read_json(path)["points"]):
                found.setdefault(curve.model, []).append(curve)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} does not hold pictures ({error!r}); delete it and rerun"
            ) from None
    return found


def _curves(points: list[dict[str, Any]]) -> list[Curve]:
    """One a format, in the order of `NAMES`; a point is named after its quality."""
    table = pd.DataFrame(points)
    table = table.assign(**dict.fromkeys(set(_OF_SOME_MODELS) - set(table.columns), np.nan))
    table = table.assign(**{"lambda": np.nan, "seed": pd.array([pd.NA] * len(table), "Int64")})
    named = table["codec"].map(NAMES)
    table = table.assign(codec=named + " " + table["quality"].astype(str))
    return [
        Curve(str(rows["model"].iloc[0]), 0, name, rows)
        for name in NAMES.values()
        if len(rows := table[named == name])
    ]


def rivalries(
    points: pd.DataFrame, pictures: dict[str, list[Curve]], level: float
) -> list[Rivalry]:
    """Of every learned curve, and of the anchor, that reaches `level` (`Terms.nats`)."""
    found = []
    for curve in curves_of(points):
        learned = not is_baseline(curve.points["codec"].iloc[0])
        rate = rate_at_level(curve, level) if learned or curve.name == ANCHOR else None
        if rate is not None and (rivals := pictures.get(curve.model)):
            rates = {rival.name: rate_at_level(rival, level) for rival in rivals}
            ratios = {name: rate / other if other else None for name, other in rates.items()}
            found.append(Rivalry(curve, rate, ratios))
    return found
