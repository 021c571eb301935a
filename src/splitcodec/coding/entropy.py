"""Entropy coding of integer symbols under integer frequency tables (rANS, by torch_ans).

Each row of a (streams, symbols) array becomes one byte string; all rows are coded side by side.
Symbols outside a table's range are escaped by the coder and still exact, up to 2³⁰. Symbols are
coded in the order in which they lie, and a table index of -1 skips a symbol: padding costs nothing.
Parts with tables of their own may follow each other in one stream, which costs the coder's state
only once.

The coder runs on the processor, wherever symbols lie: torch_ans as it is installed has no code for
other devices.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch_ans import _C

from splitcodec.coding.clock import coder_clock
from splitcodec.errors import BitstreamError

PRECISION = 16
"""Bits of a frequency: every table's frequencies sum to 2^16."""
_LEAST_STATE = 1 << 23
"""The coder's state before the first symbol; between symbols it is at least that, below 2^31."""
_MOST_POPPED = 1 << 20
"""Symbols of a stream that are decoded at a time."""
_MOST_UNCHECKED = 1 << 12
"""Symbols that may have been decoded when it is checked that the stream had as many: where few are
decoded at a time, the check takes as long."""
_OTHER = (
    "a stream decoded to other symbols than were encoded, since it {}: it is damaged, the codec "
    "differs, or this machine computes its networks differently"
)
_FARTHEST = 1 << 28
"""Magnitude of a table's first symbol, so that sums with escaped symbols stay in 32 bits."""


@dataclass(frozen=True)
class Tables:
    """Cumulative integer frequencies of several distributions.

    cumulative (tables, longest) int32, padded on the right; sizes (tables,) int32: entries used,
    the last interval being the escape; lowest (tables,) int32: the first symbol of each.
    """

    cumulative: Tensor
    sizes: Tensor
    lowest: Tensor

    def cpu(self) -> Self:
        """The same on the processor."""
        return type(self)(self.cumulative.cpu(), self.sizes.cpu(), self.lowest.cpu())


def quantise_tables(probabilities: list[Tensor], lowest: list[int]) -> Tables:
    """Integer tables from probability vectors, each over consecutive integers from `lowest`.

    What a vector lacks to one is given to the escape. Every frequency is at least one.
    """
    if any(len(row) >= 1 << PRECISION for row in probabilities):
        raise ValueError(f"a table has fewer than 2^{PRECISION} symbols, as each needs a frequency")
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
        self._put.append((symbols.flatten(1).cpu(), indexes.flatten(1).cpu(), tables))

    def finish(self) -> list[bytes]:
        """One byte string a row of what was put."""
        with coder_clock.running():
            stream = _C.rans32_init_stream(len(self._put[0][0]))
            # The coder is a stack: what shall be read first is pushed last.
            for symbols, indexes, tables in reversed(self._put):
                parts = symbols.contiguous(), indexes.contiguous()
                _C.rans32_push(stream, *parts, *_parts(tables))
            return _byte_strings(stream)


def encode(symbols: Tensor, indexes: Tensor, tables: Tables) -> list[bytes]:
    """One byte string a row of `symbols` (streams, symbols) int32; `indexes` names the tables."""
    encoder = Encoder()
    encoder.put(symbols, indexes, tables)
    return encoder.finish()


class Decoder:
    """Symbols of several streams, some columns at a time, in the order of encoding.

    The library trusts its streams: of a stream that ends too early it reads on downwards in memory.
    Here zeros lie there, more than it can read before it is noticed, soon or by `finish`; they are
    mapped and not touched, so that good streams pay nothing for them.
    """

    def __init__(self, streams: list[bytes]) -> None:
        for stream in streams:
            if len(stream) < 4 or not _LEAST_STATE <= _state(stream) < _LEAST_STATE << 8:
                raise BitstreamError("a stream does not start as the coder's do: it is damaged")
        self._stream = _with_room(_C.rans_byte_strings_to_stream(streams))
        self._rans32_pop, self._unchecked = _C.rans32_pop, 0

    def pop(self, indexes: Tensor, tables: Tables) -> Tensor:
        """The next symbols at table `indexes` (streams, …), int32; those at index -1 are zero.

        Raises BitstreamError for a stream that has no more, though not always at once.
        """
        with coder_clock.running():
            flat, parts = indexes.flatten(1).cpu(), _parts(tables)
            if len(flat) != len(self._stream):  # the library would read on
                raise ValueError(f"indexes of {len(flat)} streams, not {len(self._stream)}")
            if flat.shape[1] <= _MOST_POPPED:
                symbols = self._pop(flat, parts)
            else:
                popped = [self._pop(part, parts) for part in flat.split(_MOST_POPPED, 1)]
                symbols = torch.cat(popped, 1)
            return symbols.view(indexes.shape).to(indexes.device)

    def _pop(self, indexes: Tensor, tables: list[Tensor]) -> Tensor:
        """What has been read is taken off the stream in place."""
        symbols = self._rans32_pop(self._stream, indexes.contiguous(), *tables)
        self._unchecked += indexes.shape[1]
        if self._unchecked > _MOST_UNCHECKED:
            self._check()
        return symbols

    def _check(self) -> None:
        self._unchecked = 0
        if (self._stream[:, 0] < 4).any():
            raise BitstreamError(_OTHER.format("ends before its symbols"))

    def finish(self) -> None:
        """Raise BitstreamError unless all symbols that were encoded have been decoded."""
        self._check()
        if self._stream[:, :2].ne(torch.tensor([4, _LEAST_STATE])).any():
            raise BitstreamError(_OTHER.format("goes on after its symbols"))


def decode(streams: list[bytes], indexes: Tensor, tables: Tables) -> Tensor:
    """The symbols (streams, symbols) int32; those at index -1 are zero.

    Raises BitstreamError for streams that hold fewer symbols, or more.
    """
    decoder = Decoder(streams)
    symbols = decoder.pop(indexes, tables)
    decoder.finish()
    return symbols


def check_tables(tables: Tables) -> None:
    """Raise ValueError unless these are tables that the coder can be trusted with."""
    cumulative, sizes, lowest = tables.cumulative, tables.sizes, tables.lowest
    count = len(sizes)
    if any(part.dtype != torch.int32 for part in (cumulative, sizes, lowest)):
        raise ValueError("coding tables are not int32")
    if cumulative.ndim != 2 or sizes.shape != lowest.shape or len(cumulative) != count:
        raise ValueError("coding tables have different lengths")
    if count and not 2 <= int(sizes.min()) <= int(sizes.max()) <= cumulative.shape[1]:
        raise ValueError("a coding table is longer than its row")
    used = torch.arange(cumulative.shape[1]) < sizes[:, None]
    steps = cumulative.diff(dim=1)
    last = cumulative.gather(1, sizes[:, None].long() - 1)
    if (cumulative[:, :1] != 0).any() or (last != 1 << PRECISION).any():
        raise ValueError("a coding table does not go from 0 to 2^16")
    if (steps[used[:, 1:]] < 1).any() or (lowest.abs() > _FARTHEST).any():
        raise ValueError("a coding table does not rise, or lies too far out")


def _state(stream: bytes) -> int:
    return int.from_bytes(stream[:4], "little")


def _byte_strings(stream: Tensor) -> list[bytes]:
    """What `rans_stream_to_byte_strings` gives; that goes through a list of every byte."""
    return [row.view(np.uint8)[4 : 4 + row[0]].tobytes() for row in stream.numpy()]


def _with_room(stream: Tensor) -> Tensor:
    """A stream tensor (streams, words) with zeros before it in memory.

    A symbol takes two bytes, and an escape from zeros 64 more; a byte of a stream may claim that
    30 half bytes follow.
    """
    rows, words = stream.shape
    room = 66 * (_MOST_POPPED + _MOST_UNCHECKED) + 16 * 4 * stream.numel()
    rows_before = -(-room // (4 * words)) if words else 0
    # NumPy's zeros are pages that the system gives when they are touched.
    whole = torch.from_numpy(np.zeros((rows_before + rows, words), np.int32))
    whole[rows_before:] = stream
    return whole[rows_before:]


def _parts(tables: Tables) -> list[Tensor]:
    return [part.cpu() for part in (tables.cumulative, tables.sizes, tables.lowest)]
