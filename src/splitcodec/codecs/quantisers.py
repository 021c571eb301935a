"""Baselines without learning: half precision, and integers with a scale a token or a group.

int8 has one scale a token; int2 to int7 one scale a group of 32 channels. Scales are float16,
levels are symmetric: -(2^(b-1)-1) … 2^(b-1)-1 times the scale, chosen by the group's largest
magnitude. The bytes that `raw` sends and `deflate` and `zstd` compress are laid out to suit the
latter: first the scales, low bytes before high bytes, then the levels packed to b bits, each
channel's levels of all tokens side by side, where neighbours are alike.
"""

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import zstandard
from torch import Tensor

from splitcodec.codecs.base import Codec, Estimate, check_count
from splitcodec.codecs.hyperparameters import NoHyperparameters
from splitcodec.codecs.packing import by_plane, from_planes, pack, turned, unpack
from splitcodec.coding.clock import coder_clock
from splitcodec.coding.threads import in_threads
from splitcodec.errors import BitstreamError, InputError

GROUP = 32
DEFLATE_LEVEL = 6
ZSTD_LEVEL = 3
_HIGHEST = torch.finfo(torch.float16).max
_LEAST_SCALE = 2.0**-24

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "deflate": partial(zlib.compress, level=DEFLATE_LEVEL),
    "zstd": partial(zstandard.compress, level=ZSTD_LEVEL),
}


def _inflate(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, size + 1)
    if not inflater.eof or inflater.unused_data:
        raise zlib.error("it does not end where it should")
    return inflated


def _unzstd(data: bytes, size: int) -> bytes:
    # The library takes as much memory as the stream says it needs, whatever limit it is given.
    if zstandard.frame_content_size(data) != size:
        raise zstandard.ZstdError("it holds another number of bytes than it should")
    return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)


_DECOMPRESS: dict[str, Callable[[bytes, int], bytes]] = {
    "raw": lambda data, size: data,
    "deflate": _inflate,
    "zstd": _unzstd,
}


class _Baseline(Codec):
    """Turns each sequence alone into bytes, and those through the lossless coder.

    Sequences of a batch are compressed on as many cores as torch may use.
    """

    coder = "raw"

    @torch.no_grad()
    def compress(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> list[bytes]:
        """One stream a sequence; raises InputError for values that are no number."""
        packed = self.packed(representation, lengths)
        with coder_clock.running():
            return in_threads(_COMPRESS[self.coder], packed)

    def packed(self, representation: Tensor, lengths: Tensor) -> list[bytes]:
        """What is compressed of each sequence."""
        self.check(representation, lengths)
        pairs = zip(representation, lengths.tolist(), strict=True)
        rows = [row[:n].cpu() for row, n in pairs]
        if not all(map(_finite, rows)):
            raise InputError("the representation has values that are infinite or no number")
        return list(map(self._to_bytes, rows))

    @torch.no_grad()
    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """The reconstruction; raises BitstreamError for a stream of the wrong size."""
        check_count(streams, lengths)
        counts = lengths.tolist()
        with coder_clock.running():
            packed = in_threads(self._unpacked, list(zip(streams, counts, strict=True)))
        reconstruction = torch.zeros(len(streams), max(counts), self.channels)
        for row, data, length in zip(reconstruction, packed, counts, strict=True):
            row[:length] = self._from_bytes(data, length)
        if not _finite(reconstruction):
            raise BitstreamError(f"{self.name} stream holds what is no number: it is damaged")
        return reconstruction

    def _unpacked(self, stream_and_length: tuple[bytes, int]) -> bytes:
        stream, length = stream_and_length
        size = self._size(length)
        try:
            data = _DECOMPRESS[self.coder](stream, size)
        except (zlib.error, zstandard.ZstdError) as error:
            raise BitstreamError(f"{self.coder} stream is damaged: {error}") from None
        if len(data) != size:
            raise BitstreamError(f"{self.name} stream holds {len(data)} bytes, not {size}")
        return data

    def _to_bytes(self, row: Tensor) -> bytes:
        raise NotImplementedError

    def _from_bytes(self, data: bytes, length: int) -> Tensor:
        raise NotImplementedError

    def _size(self, length: int) -> int:
        raise NotImplementedError


class HalfPrecision(_Baseline):
    """fp16, as a cluster sends it today; low bytes before high bytes."""

    def forward(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> Estimate:
        """16 bits a channel."""
        representation, mask, _ = self.inputs(representation, lengths)
        rounded = _half(representation).float() * mask[..., None]
        return Estimate(rounded, mask * 16.0 * self.channels)

    def _to_bytes(self, row: Tensor) -> bytes:
        return by_plane(_half(row))

    def _from_bytes(self, data: bytes, length: int) -> Tensor:
        return from_planes(data).view(length, self.channels)

    def _size(self, length: int) -> int:
        return 2 * length * self.channels


class IntegerQuantiser(_Baseline):
    """b-bit integers; `int8` a token, `int2` … `int7` in groups of 32 channels."""

    def __init__(self, name: str, channels: int, hyperparameters: NoHyperparameters) -> None:
        super().__init__(name, channels, hyperparameters)
        self.bits = int(name.removeprefix("int"))
        self.group = channels if self.bits == 8 else GROUP
        self.groups = -(-channels // self.group)
        self.highest = 2 ** (self.bits - 1) - 1

    def forward(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> Estimate:
        """b bits a channel and 16 a scale, as `raw` sends them."""
        representation, mask, _ = self.inputs(representation, lengths)
        levels, scales = self._quantise(representation)
        rate = float(self.bits * self.channels + 16 * self.groups)
        return Estimate(self._dequantise(levels, scales) * mask[..., None], mask * rate)

    def _quantise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Levels (…, groups, group) int8 and scales (…, groups, 1) float16."""
        values = values.float()
        missing = self.groups * self.group - self.channels
        padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
        grouped = padded.unflatten(-1, (-1, self.group))
        scales = (grouped.abs().amax(-1, keepdim=True) / self.highest).clamp(max=_HIGHEST).half()
        steps = scales.float().clamp_min(_LEAST_SCALE)
        levels = (grouped / steps).round_().clamp_(-self.highest, self.highest)
        return levels.to(torch.int8), scales

    def _dequantise(self, levels: Tensor, scales: Tensor) -> Tensor:
        return (levels * scales.float()).flatten(-2)[..., : self.channels]

    def _to_bytes(self, row: Tensor) -> bytes:
        levels, scales = self._quantise(row)
        unsigned = levels.flatten(1)[:, : self.channels].numpy() + np.int8(self.highest)
        return by_plane(scales) + pack(turned(unsigned.view(np.uint8)).reshape(-1), self.bits)

    def _from_bytes(self, data: bytes, length: int) -> Tensor:
        split = 2 * length * self.groups
        scales = from_planes(data[:split]).view(length, self.groups, 1)
        packed = np.frombuffer(data[split:], np.uint8)
        levels = unpack(packed, self.bits, length * self.channels).view(np.int8)
        padded = np.zeros((length, self.groups * self.group), np.int8)
        padded[:, : self.channels] = turned(levels.reshape(-1, length)) - np.int8(self.highest)
        return self._dequantise(torch.from_numpy(padded).unflatten(-1, (-1, self.group)), scales)

    def _size(self, length: int) -> int:
        return 2 * length * self.groups + -(-length * self.channels * self.bits // 8)


def _finite(values: Tensor) -> bool:
    """Whether all are numbers; a twentieth of the time of `isfinite().all()`."""
    return all(extreme.isfinite() for extreme in values.aminmax())


def _half(values: Tensor) -> Tensor:
    """float16, where what lies beyond its range becomes its largest value and not infinite."""
    return values.float().clamp(-_HIGHEST, _HIGHEST).half()
