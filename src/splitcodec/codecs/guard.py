"""The guard band: encoder and decoder choose the same coding table on any two machines.

A network's scale picks a table by rounding its position among them, and no two machines, thread
counts or batch sizes compute that position quite alike. They are assumed to differ by at most
`BOUND`, in units of a table. A position further than that from every boundary between two tables
rounds alike everywhere. The few nearer ones are *signalled*: the stream tells which of them there
are and whether each rounds up. The decoder finds every signalled position within twice the bound of
a boundary, or refuses.

Networks that code run in float64, where positions differ by about 1e-12; the bound leaves room for
feedback through decoded values and even for a receiver that has only float32. It costs 0.04 % in
rate: one position in 33,000 is signalled, by 25 bits.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from splitcodec.coding.entropy import Decoder, Encoder, Tables, quantise_tables
from splitcodec.errors import BitstreamError

BOUND = 2.0**-16
"""Assumed largest difference of a position between two machines, in units of a table."""


# Of these alone, since torch's older function refuses where a program has used them.
_PRODUCTS = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
_lock = threading.Lock()
_inside = 0
_before: list[str] = []


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """float32 that is float32, whatever the program around has asked for: the bounds assume it.

    What it sets is the process's: threads may be inside at the same time, and the last to leave
    sets it back.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = [product.fp32_precision for product in _PRODUCTS]
        _inside += 1
        for product in _PRODUCTS:
            product.fp32_precision = "ieee"
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for product, precision in zip(_PRODUCTS, _before, strict=True):
                    product.fp32_precision = precision


_DIGIT = 256
_DIGITS = 3
_COUNT_TABLE, _DIGIT_TABLE, _UP_TABLE = range(3)


def _tables() -> Tables:
    """Of the number of signals, which is nearly always small; of a digit; of up or down."""
    counts = torch.full((_DIGIT,), 0.1 / _DIGIT, dtype=torch.float64)
    counts[0] += 0.9
    digits = torch.full((_DIGIT,), 1 / _DIGIT, dtype=torch.float64)
    return quantise_tables([counts, digits, torch.tensor([0.5, 0.5])], [0, 0, 0])


_TABLES = _tables()


@dataclass(frozen=True)
class Signals:
    """What a batch of streams tells about positions near a boundary.

    places (signals, 3) int64: row, token, channel, in this order; up (signals,) int32: one where
    the position rounds up.
    """

    places: Tensor
    up: Tensor

    @classmethod
    def of(cls, positions: Tensor, where: Tensor) -> Self:
        """What must be told of tokens `where` (batch, tokens), in the order of their `nonzero`.

        `positions` (places, channels) float64. All tokens must be there that may have something to
        be told.
        """
        row, token = where.nonzero(as_tuple=True)
        nearest = positions.round()
        place, channel = ((positions - nearest).abs_() >= 0.5 - BOUND).nonzero(as_tuple=True)
        up = (nearest > positions)[place, channel]
        return cls(torch.stack([row[place], token[place], channel], 1), up.to(torch.int32))

    @classmethod
    def everywhere(cls, positions: Tensor) -> Self:
        """The same of all tokens; positions (batch, tokens, channels) float64."""
        everywhere = torch.ones(positions.shape[:2], dtype=torch.bool, device=positions.device)
        return cls.of(positions.flatten(0, 1), everywhere)

    def within(self, mask: Tensor) -> Self:
        """Those of tokens that are there; mask (batch, tokens)."""
        there = mask[self.places[:, 0], self.places[:, 1]]
        return type(self)(self.places[there], self.up[there])

    def indexes(self, positions: Tensor, first: int = 0) -> Tensor:
        """The table at each of `positions` (batch, tokens, channels), int32, as the encoder chose.

        `first`: the number of the first of these tokens. Raises BitstreamError where positions
        differ from the encoder's by more than the bound.
        """
        indexes = positions.round().to(torch.int32)
        token = self.places[:, 1] - first
        here = (token >= 0) & (token < positions.shape[1])
        if not here.any():
            return indexes
        row, _, channel = self.places[here].unbind(1)
        at = row, token[here], channel
        lower = positions[at].floor()
        if ((positions[at] - lower - 0.5).abs() > 2 * BOUND).any():
            raise BitstreamError(
                "the codec differs, or this machine computes its networks differently, by more "
                f"than {BOUND:.1e} of a coding table"
            )
        indexes[at] = lower.to(torch.int32) + self.up[here]
        return indexes

    def put(self, encoder: Encoder, shape: torch.Size) -> None:
        """Append to the streams: how many; then of each its distance from the one before, counted
        in symbols, as three digits to base 256, and whether it rounds up.

        `shape` (batch, tokens, channels) is that of the positions.
        """
        rows, _, channels = shape
        row, token, channel = self.places.cpu().unbind(1)
        counts = torch.bincount(row, minlength=rows)
        table = torch.zeros(rows, int(counts.max()), _DIGITS + 1, dtype=torch.int64)
        slot = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        flat = torch.zeros(table.shape[:2], dtype=torch.int64)
        flat[row, slot] = token * channels + channel
        gaps = flat.diff(dim=1, prepend=torch.zeros(rows, 1, dtype=torch.int64))[row, slot]
        # A first digit beyond 255 is escaped by the coder.
        digits = [gaps >> 16, (gaps >> 8) % _DIGIT, gaps % _DIGIT, self.up.cpu()]
        table[row, slot] = torch.stack(digits, 1)
        device = self.places.device
        encoder.put(counts[:, None].to(device, torch.int32), _counting(rows, device), _TABLES)
        encoder.put(table.to(device, torch.int32), _kinds(counts, device), _TABLES)

    @classmethod
    def pop(cls, decoder: Decoder, shape: torch.Size, device: torch.device) -> Self:
        """Take off the streams what `put` appended; raises BitstreamError if it cannot be."""
        rows, tokens, channels = shape
        counts = decoder.pop(_counting(rows, device), _TABLES)[:, 0].cpu().long()
        if counts.min() < 0 or counts.max() > tokens * channels:
            raise BitstreamError("a stream signals more positions than there are: it is damaged")
        told = decoder.pop(_kinds(counts, device), _TABLES).cpu().long()
        upper, middle, lower, up = told.unbind(-1)
        flat = ((upper << 16) + (middle << 8) + lower).cumsum(1)
        row, slot = (torch.arange(told.shape[1]) < counts[:, None]).nonzero(as_tuple=True)
        flat, up = flat[row, slot], up[row, slot]
        there = (flat >= 0) & (flat < tokens * channels) & (up >= 0) & (up <= 1)
        if not there.all():
            raise BitstreamError("a stream signals a position that is not there: it is damaged")
        places = torch.stack([row, flat // max(1, channels), flat % max(1, channels)], 1)
        return cls(places.to(device), up.to(device, torch.int32))


def _counting(rows: int, device: torch.device) -> Tensor:
    return torch.full((rows, 1), _COUNT_TABLE, dtype=torch.int32, device=device)


def _kinds(counts: Tensor, device: torch.device) -> Tensor:
    """Tables of what tells each signal, (rows, most signals, 4); -1 where a row has fewer."""
    kinds = torch.tensor([_DIGIT_TABLE] * _DIGITS + [_UP_TABLE], dtype=torch.int32)
    told = torch.arange(int(counts.max())) < counts[:, None]
    return torch.where(told[..., None], kinds, -1).to(device)
