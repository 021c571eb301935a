"""From a codec's name to the codec: the one place that knows all of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitcodec.codecs.base import Codec, load_state
from splitcodec.codecs.catalogue import CODERS, hyperparameters_of, is_baseline
from splitcodec.codecs.direct_access import DirectAccess
from splitcodec.codecs.factorised import Factorised
from splitcodec.codecs.hyperparameters import (
    DirectAccessHyperparameters,
    Hyperparameters,
    HyperpriorHyperparameters,
    KltHyperparameters,
)
from splitcodec.codecs.hyperprior import Hyperprior
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.quantisers import HalfPrecision, IntegerQuantiser
from splitcodec.codecs.search import LEAST_WEIGHT, MOST_WEIGHT
from splitcodec.codecs.transform import TransformCodec
from splitcodec.codecs.trellis import Trellis
from splitcodec.coding.entropy import Tables, check_tables
from splitcodec.densities.channelwise import ChannelwiseDensity
from splitcodec.densities.location_scale import SCALES
from splitcodec.errors import InputError, reason_of

_CLASSES: dict[str, Callable[..., Codec]] = {
    "klt": Klt,
    "trellis": Trellis,
    "factorised": Factorised,
    "hyperprior": Hyperprior,
    "direct-access": DirectAccess,
}

_LARGEST = torch.finfo(torch.float32).max
_RANGES: dict[str, tuple[float, float]] = {
    "scale_index": (0, SCALES - 1),
    "error_weight": (LEAST_WEIGHT, MOST_WEIGHT),
    "counts": (0, _LARGEST),
    "sink_energy": (0, math.inf),
}
"""Of the values of tensors by their last names; others are any numbers."""


def coders_of(name: str) -> tuple[str, ...]:
    """What can turn this codec's symbols into bytes."""
    return CODERS if is_baseline(name) else ("ans",)


def build_codec(name: str, channels: int, hyperparameters: dict[str, Any], **shape: Any) -> Codec:
    """A codec before it has been fitted; raises SettingsError for an unknown name."""
    parsed = hyperparameters_of(name).model_validate(hyperparameters)
    if name == "fp16":
        return HalfPrecision(name, channels, parsed)
    if is_baseline(name):
        return IntegerQuantiser(name, channels, parsed)
    return _CLASSES[name](name, channels, parsed, **shape)


def _check_size(
    channels: int,
    parsed: Hyperparameters,
    state: dict[str, Tensor],
    kept: int = 0,
    vocabulary: int = 0,
) -> None:
    """Raise ValueError for a description of more weights than there are, before it is built."""
    least = kept * channels + vocabulary
    if isinstance(parsed, KltHyperparameters):
        if state["analysis"].shape != (kept, channels):
            raise ValueError(f"its transform is not of {channels} channels")
        least += parsed.tokens * channels**2
    if isinstance(parsed, HyperpriorHyperparameters):
        least += (12 * parsed.layers * parsed.width + parsed.side_channels) * parsed.width
    if isinstance(parsed, DirectAccessHyperparameters):
        least += parsed.history * channels**2
    if least > sum(tensor.numel() for tensor in state.values()):
        raise ValueError("it has fewer weights than its hyper-parameters say")


def _check_values(codec: Codec, built: dict[str, Tables]) -> None:
    """Raise ValueError for values that no codec has; `built`: tables as they were before loading.

    Only densities with a shape a channel have tables whose reach is learned.
    """
    for name, tensor in codec.state_dict().items():
        low, high = _RANGES.get(name.rpartition(".")[2], (-_LARGEST, _LARGEST))
        if tensor.numel() and not low <= float(tensor.min()) <= float(tensor.max()) <= high:
            raise ValueError(f"its {name} has values that are no number, or out of range")
    for name, first in built.items():
        tables = codec.tables(name)
        check_tables(tables)
        same = torch.equal(tables.sizes, first.sizes) and torch.equal(tables.lowest, first.lowest)
        learned = isinstance(codec.densities()[name], ChannelwiseDensity)
        if not same and not (learned and len(tables.sizes) == len(first.sizes)):
            raise ValueError(f"its {name} coding tables are of other symbols")


def load_codec(directory: Path, coder: str | None = None) -> tuple[Codec, dict[str, Any]]:
    """The codec of a folder, ready to code, and its codec.json."""
    meaning, state = load_state(directory)
    name = meaning["codec"]
    hyperparameters_of(name)  # SettingsError for a codec that this version does not know
    try:
        shape = {} if is_baseline(name) else _CLASSES[name].shape_of_state(state)
        parsed = hyperparameters_of(name).model_validate(meaning["hyperparameters"])
        _check_size(meaning["channels"], parsed, state, **shape)
        codec = build_codec(name, meaning["channels"], meaning["hyperparameters"], **shape)
        transforms = isinstance(codec, TransformCodec)
        built = {table: codec.tables(table) for table in codec.densities()} if transforms else {}
        codec.load_state_dict(state)
        _check_values(codec, built)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory} does not hold a {name} codec of this version ({reason_of(error)}); "
            "train it again"
        ) from None
    coders = coders_of(name)
    coder = coder or coders[0]
    if coder not in coders:
        raise InputError(f"{name} has no coder {coder!r}; it has {', '.join(coders)}")
    codec.coder = coder
    return codec.eval(), meaning
