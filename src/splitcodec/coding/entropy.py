"""Entropy coding of integer symbols under integer frequency tables (rANS, by torch_ans).

Each row of a (streams, symbols) array becomes one byte string; all rows are coded side by side.
Symbols outside a table's range are escaped by the coder and still exact. Symbols are coded in the
order in which they lie, and a table index of -1 skips a symbol: padding costs nothing. Parts with
tables of their own may follow each other in one stream, which costs the coder's state only once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_ans import _C

from splitcodec.coding.clock import coder_clock
from splitcodec.errors import BitstreamError

PRECISION = 16
"""Bits of a frequency: every table's frequencies sum to 2^16."""


@dataclass(frozen=True)
class Tables:
    """Cumulative integer frequencies of several distributions.

    cumulative (tables, longest) int32, padded on the right; sizes (tables,) int32: entries used,
    the last interval being the escape; lowest (tables,) int32: the first symbol of each.
    """

    cumulative: Tensor
    sizes: Tensor
    lowest: Tensor


def quantise_tables(probabilities: list[Tensor], lowest: list[int]) -> Tables:
    """Integer tables from probability vectors, each over consecutive integers from `lowest`.

    What a vector lacks to one is given to the escape. Every frequency is at least one.
    """
    rows = [_quantise(row) for row in probabilities]
    sizes = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    longest = max(map(len, rows), default=2)
    padded = torch.full((len(rows), longest), 1 << PRECISION, dtype=torch.int32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return Tables(padded, sizes, torch.tensor(lowest, dtype=torch.int32))


def _quantise(probabilities: Tensor) -> Tensor:
    """Cumulative frequencies of one vector and its escape: 0 first, 2^16 last, all steps ≥ 1.

    Own code because the library's quantiser gives decreasing tables for very peaked vectors.
    """
    mass = probabilities.detach().cpu().double().clamp_min(0)
    mass = torch.cat([mass, (1 - mass.sum()).clamp_min(0)[None]])
    frequencies = 1 + (mass / mass.sum() * ((1 << PRECISION) - len(mass))).long()
    frequencies[mass.argmax()] += (1 << PRECISION) - frequencies.sum()
    return torch.cat([torch.zeros(1), frequencies.cumsum(0)]).to(torch.int32)


class Encoder:
    """Several streams, filled part by part."""

    def __init__(self) -> None:
        self._put: list[tuple[Tensor, Tensor, Tables]] = []

    def put(self, symbols: Tensor, indexes: Tensor, tables: Tables) -> None:
        """Append `symbols` (streams, …) int32; `indexes`, of the same shape, names the tables."""
        self._put.append((symbols.flatten(1), indexes.flatten(1), tables))

    def finish(self) -> list[bytes]:
        """One byte string a row of what was put."""
        with coder_clock.running():
            first = self._put[0][0]
            stream = _C.rans32_init_stream(len(first)).to(first.device)
            # The coder is a stack: what shall be read first is pushed last.
            for symbols, indexes, tables in reversed(self._put):
                parts = symbols.contiguous(), indexes.contiguous()
                _C.rans32_push(stream, *parts, *_parts(tables, first.device))
            return _C.rans_stream_to_byte_strings(stream)


class Decoder:
    """Symbols of several streams, some columns at a time, in the order of encoding."""

    def __init__(self, streams: list[bytes]) -> None:
        if any(len(stream) < 4 for stream in streams):
            raise BitstreamError("a stream is shorter than the coder's state: the file is damaged")
        self._stream = _C.rans_byte_strings_to_stream(streams)

    def pop(self, indexes: Tensor, tables: Tables) -> Tensor:
        """The next symbols at table `indexes` (streams, …), int32; those at index -1 are zero."""
        with coder_clock.running():
            self._stream = self._stream.to(indexes.device)
            flat = indexes.flatten(1).contiguous()
            # what has been read is taken off the stream in place
            symbols = _C.rans32_pop(self._stream, flat, *_parts(tables, flat.device))
            return symbols.masked_fill_(flat < 0, 0).view(indexes.shape)


def encode(symbols: Tensor, indexes: Tensor, tables: Tables) -> list[bytes]:
    """One byte string a row of `symbols` (streams, symbols) int32; `indexes` names the tables."""
    encoder = Encoder()
    encoder.put(symbols, indexes, tables)
    return encoder.finish()


def decode(streams: list[bytes], indexes: Tensor, tables: Tables) -> Tensor:
    """The symbols (streams, symbols) int32; those at index -1 are zero."""
    return Decoder(streams).pop(indexes, tables)


def _parts(tables: Tables, device: torch.device) -> list[Tensor]:
    return [part.to(device) for part in (tables.cumulative, tables.sizes, tables.lowest)]
