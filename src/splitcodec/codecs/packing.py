"""Integers of a few bits, and half precision, as bytes that lossless compressors do well on."""

import numpy as np
import torch
from torch import Tensor

_STRIP = 64
_IN_A_WORD = 8


def by_plane(values: Tensor) -> bytes:
    """float16 values as all low bytes, then all high bytes."""
    pairs = values.contiguous().numpy().view(np.uint16).reshape(-1)
    planes = np.empty((2, pairs.size), np.uint8)
    planes[0] = pairs  # the low byte remains
    planes[1] = pairs >> 8
    return planes.tobytes()


def from_planes(data: bytes) -> Tensor:
    """The float16 values (count,) of `by_plane`."""
    low, high = np.frombuffer(data, np.uint8).reshape(2, -1).astype(np.uint16)
    high <<= 8
    high |= low
    return torch.from_numpy(high.view(np.float16))


def turned(levels: np.ndarray) -> np.ndarray:
    """Bytes (rows, columns) as (columns, rows), transposed by strips that the cache holds."""
    rows, columns = levels.shape
    turned = np.empty((columns, rows), levels.dtype)
    for start in range(0, rows, _STRIP):
        turned[:, start : start + _STRIP] = levels[start : start + _STRIP].T
    return turned


def pack(levels: np.ndarray, bits: int) -> bytes:
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


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
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
