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

from splitcodec.activations.store import mask_of
from splitcodec.codecs.base import Codec, Estimate
from splitcodec.codecs.hyperparameters import NoHyperparameters
from splitcodec.coding.clock import coder_clock
from splitcodec.errors import BitstreamError

GROUP = 32
DEFLATE_LEVEL = 6
ZSTD_LEVEL = 3
_HIGHEST = torch.finfo(torch.float16).max
_LEAST_SCALE = 2.0**-24

_COMPRESSORS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "raw": lambda: bytes,
    "deflate": lambda: partial(zlib.compress, level=DEFLATE_LEVEL),
    "zstd": lambda: zstandard.ZstdCompressor(ZSTD_LEVEL).compress,
}
"""What makes, of a batch's sequences one after the other, compressed ones."""


def _inflate(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, size + 1)
    if not inflater.eof:
        raise zlib.error("it does not end where it should")
    return inflated


def _unzstd(data: bytes, size: int) -> bytes:
    # The library takes as much memory as the stream says it needs, whatever limit it is given.
    if zstandard.frame_content_size(data) != size:
        raise zstandard.ZstdError("it holds another number of bytes than it should")
    return zstandard.decompress(data)


_DECOMPRESS: dict[str, Callable[[bytes, int], bytes]] = {
    "raw": lambda data, size: data,
    "deflate": _inflate,
    "zstd": _unzstd,
}


class _Baseline(Codec):
    """Turns each sequence alone into bytes, and those through the lossless coder."""

    coder = "raw"

    def compress(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> list[bytes]:
        """One stream a sequence."""
        pairs = zip(representation, lengths.tolist(), strict=True)
        packed = [self._to_bytes(row[:length].cpu()) for row, length in pairs]
        with coder_clock.running():
            compress = _COMPRESSORS[self.coder]()
            return [compress(data) for data in packed]

    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """The reconstruction; raises BitstreamError for a stream of the wrong size."""
        counts = lengths.tolist()
        with coder_clock.running():
            packed = [self._unpacked(row, n) for row, n in zip(streams, counts, strict=True)]
        reconstruction = torch.zeros(len(streams), max(counts), self.channels)
        for row, data, length in zip(reconstruction, packed, counts, strict=True):
            row[:length] = self._from_bytes(data, length)
        return reconstruction

    def _unpacked(self, stream: bytes, length: int) -> bytes:
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
        mask = mask_of(lengths, representation.shape[1])
        rounded = _half(representation).float() * mask[..., None]
        return Estimate(rounded, mask * 16.0 * self.channels)

    def _to_bytes(self, row: Tensor) -> bytes:
        return _by_plane(_half(row))

    def _from_bytes(self, data: bytes, length: int) -> Tensor:
        return _from_planes(data).view(length, self.channels)

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
        mask = mask_of(lengths, representation.shape[1])
        levels, scales = self._quantise(representation)
        rate = float(self.bits * self.channels + 16 * self.groups)
        return Estimate(self._dequantise(levels, scales) * mask[..., None], mask * rate)

    def _quantise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Levels (…, groups, group) int8 and scales (…, groups, 1) float16."""
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
        return _by_plane(scales) + _pack(_turned(unsigned.view(np.uint8)).reshape(-1), self.bits)

    def _from_bytes(self, data: bytes, length: int) -> Tensor:
        split = 2 * length * self.groups
        scales = _from_planes(data[:split]).view(length, self.groups, 1)
        packed = np.frombuffer(data[split:], np.uint8)
        levels = _unpack(packed, self.bits, length * self.channels).view(np.int8)
        padded = np.zeros((length, self.groups * self.group), np.int8)
        padded[:, : self.channels] = _turned(levels.reshape(-1, length)) - np.int8(self.highest)
        return self._dequantise(torch.from_numpy(padded).unflatten(-1, (-1, self.group)), scales)

    def _size(self, length: int) -> int:
        return 2 * length * self.groups + -(-length * self.channels * self.bits // 8)


def _half(values: Tensor) -> Tensor:
    """float16, where what lies beyond its range becomes its largest value and not infinite."""
    return values.clamp(-_HIGHEST, _HIGHEST).half()


def _by_plane(values: Tensor) -> bytes:
    """float16 values as all low bytes, then all high bytes."""
    pairs = values.contiguous().numpy().view(np.uint16).reshape(-1)
    planes = np.empty((2, pairs.size), np.uint8)
    planes[0] = pairs  # the low byte remains
    planes[1] = pairs >> 8
    return planes.tobytes()


def _from_planes(data: bytes) -> Tensor:
    low, high = np.frombuffer(data, np.uint8).reshape(2, -1).astype(np.uint16)
    high <<= 8
    high |= low
    return torch.from_numpy(high.view(np.float16))


_STRIP = 64
_IN_A_WORD = 8


def _turned(levels: np.ndarray) -> np.ndarray:
    """Bytes (rows, columns) as (columns, rows), transposed by strips that the cache holds."""
    rows, columns = levels.shape
    turned = np.empty((columns, rows), levels.dtype)
    for start in range(0, rows, _STRIP):
        turned[:, start : start + _STRIP] = levels[start : start + _STRIP].T
    return turned


def _pack(levels: np.ndarray, bits: int) -> bytes:
    """Levels below 2^bits as a run of bits, most significant first.

    Eight levels at a time become one word of `bits` bytes: neighbours are joined, then pairs, then
    fours, in words of twice the width in which the two lie already, the first of them lower.
    """
    if bits == 8:
        return levels.tobytes()
    words = np.zeros(-(-len(levels) // _IN_A_WORD) * _IN_A_WORD, np.uint8)
    words[: len(levels)] = levels
    for size in (2, 4, 8):
        width, pairs = bits * size // 2, words.view(f"<u{size}")
        words = pairs << width
        words |= pairs >> 4 * size
        words &= (1 << 2 * width) - 1
    size = 1 << (bits - 1).bit_length()  # of the smallest integer that has so many bytes
    run = words.astype(f">u{size}").view(np.uint8).reshape(-1, size)[:, size - bits :]
    return run.tobytes()[: -(-len(levels) * bits // 8)]


def _unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` levels of a run of bits."""
    if bits == 8:
        return packed
    full = -(-count // _IN_A_WORD)
    room = np.zeros(full * bits + 8, np.uint8)
    room[: len(packed)] = packed
    # A word starts every `bits` bytes; of the eight that are read the later ones are shifted out.
    words = np.ndarray((full,), ">u8", room, strides=(bits,)).astype("<u8")
    words >>= 64 - 8 * bits
    for size in (8, 4, 2):
        width = bits * size // 2
        second = words & ((1 << width) - 1)
        second <<= 4 * size
        words >>= width
        words |= second
        words = words.view(f"<u{size // 2}")
    return words[:count]
