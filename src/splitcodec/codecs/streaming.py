"""Token by token: a stream turns each token's representation into a packet, and back.

Both ends remember what they need of earlier tokens, so a packet costs its own tokens only. Packets
are decoded in the order in which they were made; one that is refused leaves the stream as it was,
so that it can be sent again. Symbols are those of whole-sequence coding; what a packet costs more
is the state of its entropy coder, about 26 bits, and its checksum. Specified in docs/format.md.
"""

import struct
from typing import TYPE_CHECKING, Protocol

import google_crc32c
import torch
from torch import Tensor

from splitcodec.codecs.checksum import checksum
from splitcodec.errors import BitstreamError

if TYPE_CHECKING:
    from splitcodec.codecs.base import Codec
    from splitcodec.codecs.transform import TransformCodec

_CHECK = struct.Struct("<H")
_BYTES_CHECK = struct.Struct("<I")


class Stream(Protocol):
    """One end of one sequence: either encode with it or decode."""

    def encode(self, representation: Tensor, tokens: Tensor | None = None) -> bytes:
        """The packet of the next tokens, `representation` (tokens, channels).

        `tokens` (tokens,): their ids, where the codec sends them.
        """

    def decode(self, packet: bytes, count: int = 1) -> Tensor:
        """The reconstruction (tokens, channels) of the next packet, which holds `count` tokens.

        Raises BitstreamError for a damaged packet, or one out of order.
        """


class StatelessStream:
    """Of a codec that codes every token alone: a packet is a u32 and a sequence of its own.

    The u32, little-endian, is the CRC-32C of all such sequences so far, one after the other.
    """

    def __init__(self, codec: "Codec") -> None:
        self._codec, self._checksum = codec, 0

    def encode(self, representation: Tensor, tokens: Tensor | None = None) -> bytes:
        """See Stream."""
        (body,) = self._codec.compress(representation[None], _length(len(representation)))
        self._checksum = google_crc32c.extend(self._checksum, body)
        return _BYTES_CHECK.pack(self._checksum) + body

    def decode(self, packet: bytes, count: int = 1) -> Tensor:
        """See Stream."""
        expected, body = _parted(packet, _BYTES_CHECK)
        found = google_crc32c.extend(self._checksum, body)
        if found != expected:
            raise BitstreamError(
                "a packet does not match its checksum: it is damaged or out of order"
            )
        (reconstruction,) = self._codec.decompress([body], _length(count))
        self._checksum = found
        return reconstruction


class CheckedStream:
    """Of a codec that remembers: a packet is a u16 and a rANS stream as in a whole sequence.

    The u16, little-endian, is the lower half of the CRC-32C of all symbols so far.
    """

    # What is remembered may be continued in any mode, so none of it is torch's inference tensors.

    @torch.inference_mode(False)
    def __init__(self, codec: "TransformCodec") -> None:
        self._codec, self._past, self._checksum = codec, codec.start(), 0

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(self, representation: Tensor, tokens: Tensor | None = None) -> bytes:
        """See Stream."""
        ids = None if tokens is None else tokens[None]
        length, past = _length(len(representation)), self._past.copy()
        (body,), symbols = self._codec.write(representation[None], length, ids, past)
        self._past, self._checksum = past, self._checksum_after(symbols)
        return _CHECK.pack(self._checksum & 0xFFFF) + body

    @torch.inference_mode(False)
    @torch.no_grad()
    def decode(self, packet: bytes, count: int = 1) -> Tensor:
        """See Stream."""
        expected, body = _parted(packet, _CHECK)
        past = self._past.copy()
        reconstruction, symbols = self._codec.read([body], _length(count), past)
        found = self._checksum_after(symbols)
        if found & 0xFFFF != expected:
            raise BitstreamError(
                "a packet decoded to other symbols than were encoded: it is damaged or out of "
                "order, the codec differs, or this machine computes its networks differently"
            )
        self._past, self._checksum = past, found
        return reconstruction[0]

    def _checksum_after(self, symbols: list[list[Tensor]]) -> int:
        return checksum(*(part[0] for part in symbols), after=self._checksum)


def _parted(packet: bytes, check: struct.Struct) -> tuple[int, bytes]:
    """A packet's checksum and what it is of."""
    if len(packet) < check.size:
        raise BitstreamError("a packet is too short to hold its checksum: it is damaged")
    return check.unpack_from(packet)[0], packet[check.size :]


def _length(tokens: int) -> Tensor:
    return torch.tensor([tokens])
