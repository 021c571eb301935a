"""Token by token: a stream turns each token's representation into a packet, and back.

Both ends remember what they need of earlier tokens, so a packet costs its own tokens only. Packets
are decoded in the order in which they were made. Symbols are those of whole-sequence coding; what
a packet costs more is the state of its entropy coder, about 26 bits, and its checksum.
"""

import struct
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from splitcodec.codecs.checksum import checksum
from splitcodec.errors import BitstreamError

if TYPE_CHECKING:
    from splitcodec.codecs.base import Codec
    from splitcodec.codecs.transform import TransformCodec

_CHECK = struct.Struct("<H")


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
    """Of a codec that codes every token alone: a packet is a sequence of its own."""

    def __init__(self, codec: "Codec") -> None:
        self._codec = codec

    def encode(self, representation: Tensor, tokens: Tensor | None = None) -> bytes:
        """See Stream."""
        return self._codec.compress(representation[None], _length(len(representation)))[0]

    def decode(self, packet: bytes, count: int = 1) -> Tensor:
        """See Stream."""
        return self._codec.decompress([packet], _length(count))[0]


class CheckedStream:
    """Of a codec that remembers: a packet is a u16 and a rANS stream as in a whole sequence.

    The u16, little-endian, is the lower half of the CRC-32C of all symbols so far.
    """

    def __init__(self, codec: "TransformCodec") -> None:
        self._codec, self._past, self._checksum = codec, codec.start(), 0

    @torch.no_grad()
    def encode(self, representation: Tensor, tokens: Tensor | None = None) -> bytes:
        """See Stream."""
        ids = None if tokens is None else tokens[None]
        length = _length(len(representation))
        (body,), symbols = self._codec.write(representation[None], length, ids, self._past)
        return _CHECK.pack(self._check(symbols)) + body

    @torch.no_grad()
    def decode(self, packet: bytes, count: int = 1) -> Tensor:
        """See Stream."""
        if len(packet) < _CHECK.size:
            raise BitstreamError("a packet is too short to hold its checksum: it is damaged")
        body = packet[_CHECK.size :]
        reconstruction, symbols = self._codec.read([body], _length(count), self._past)
        if self._check(symbols) != _CHECK.unpack_from(packet)[0]:
            raise BitstreamError(
                "a packet decoded to other symbols than were encoded: it is damaged or out of "
                "order, the codec differs, or this machine computes its networks differently"
            )
        return reconstruction[0]

    def _check(self, symbols: list[list[Tensor]]) -> int:
        self._checksum = checksum(*(part[0] for part in symbols), after=self._checksum)
        return self._checksum & 0xFFFF


def _length(tokens: int) -> Tensor:
    return torch.tensor([tokens])
