"""The names of all codecs and their hyper-parameters. Free of torch, so the workflow can read it.

`codecs.registry` binds the same names to the classes.
"""

import math
import re
from collections.abc import Sequence

from splitcodec.codecs.hyperparameters import (
    DirectAccessHyperparameters,
    FactorisedHyperparameters,
    Hyperparameters,
    HyperpriorHyperparameters,
    KltHyperparameters,
    NoHyperparameters,
    TrellisHyperparameters,
)
from splitcodec.errors import SettingsError

CODERS = ("raw", "deflate", "zstd")
"""Lossless coders that a baseline's symbols can pass through."""

LOG_RATE_WEIGHT_A_LEVEL = 0.4042
"""Logarithm of the ratio of the λ that two neighbouring levels are for; see `codecs.levels`."""

LEARNED: dict[str, type[Hyperparameters]] = {
    "klt": KltHyperparameters,
    "trellis": TrellisHyperparameters,
    "factorised": FactorisedHyperparameters,
    "hyperprior": HyperpriorHyperparameters,
    "direct-access": DirectAccessHyperparameters,
}

_BASELINE = re.compile(r"fp16|int[2-8]")


def is_baseline(name: str) -> bool:
    """Whether `name` is a codec without λ: fp16, or int2 to int8."""
    return _BASELINE.fullmatch(name) is not None


def coder_when_learned(codec: str) -> str:
    """The only coder of what has learned; integers and fp16 with which a model did take one too."""
    return "zstd" if is_baseline(codec) else "ans"


def hyperparameters_of(name: str) -> type[Hyperparameters]:
    """The type of a codec's hyper-parameters; raises SettingsError for an unknown codec."""
    if is_baseline(name):
        return NoHyperparameters
    if name not in LEARNED:
        known = ", ".join([*LEARNED, "fp16", "int2 to int8"])
        raise SettingsError(f"unknown codec {name!r}; known are {known}")
    return LEARNED[name]


def middle(rate_weights: Sequence[float]) -> float:
    """The geometric mean of several λ."""
    if len(rate_weights) == 1:
        return rate_weights[0]  # to the last digit
    return math.exp(sum(map(math.log, rate_weights)) / len(rate_weights))
