"""Four bytes a stream that prove the decoder saw the very symbols that the encoder meant.

Entropy parameters that differ by one table between two machines turn all later symbols into
noise; the container's checksum cannot see that, since the bytes are intact. This one can.
"""

import struct
from dataclasses import dataclass

import google_crc32c
from torch import Tensor

from splitcodec.errors import BitstreamError

_FORMAT = struct.Struct("<I")


def checksum(*symbols: Tensor, after: int = 0) -> int:
    """CRC-32C of integer symbols (any shapes, int32) that follow others of the CRC-32C `after`."""
    for part in symbols:
        after = google_crc32c.extend(after, part.numpy().tobytes())
    return after


def seal(stream: bytes, *symbols: Tensor) -> bytes:
    """A stream with the checksum of its symbols in front."""
    return _FORMAT.pack(checksum(*symbols)) + stream


def trim(lengths: Tensor, *symbols: Tensor) -> list[list[Tensor]]:
    """Each sequence's symbols without padding, for each of `symbols` (streams, tokens, …)."""
    counts = lengths.tolist()
    return [[row[:n].cpu() for row, n in zip(part, counts, strict=True)] for part in symbols]


@dataclass(frozen=True)
class Checksums:
    """One checksum a stream, to be held against decoded symbols."""

    values: list[int]

    def check(self, *symbols: list[Tensor]) -> None:
        """Raise BitstreamError unless each stream's symbols, as `trim` gives them, fit."""
        for row, expected in enumerate(self.values):
            if checksum(*(part[row] for part in symbols)) != expected:
                raise BitstreamError(
                    f"sequence {row} of the batch decoded to other symbols than were encoded: "
                    "the codec differs, or this machine computes its networks differently"
                )


def unseal(streams: list[bytes]) -> tuple[list[bytes], Checksums]:
    """Streams without their checksums, and those."""
    if any(len(stream) < _FORMAT.size for stream in streams):
        raise BitstreamError("a stream is too short to hold its checksum: the file is damaged")
    values = [_FORMAT.unpack_from(stream)[0] for stream in streams]
    return [stream[_FORMAT.size :] for stream in streams], Checksums(values)
