"""Two byte strings in one: the length of the first, then both."""

import struct

from splitcodec.errors import BitstreamError

_LENGTH = struct.Struct("<I")


def join(first: bytes, second: bytes) -> bytes:
    """One byte string from two; costs four bytes."""
    return _LENGTH.pack(len(first)) + first + second


def split(joined: bytes) -> tuple[bytes, bytes]:
    """The two byte strings; raises BitstreamError when the length cannot be."""
    if len(joined) < _LENGTH.size:
        raise BitstreamError("a stream ends inside its length: the file is damaged")
    end = _LENGTH.size + _LENGTH.unpack_from(joined)[0]
    if end > len(joined):
        raise BitstreamError("a stream is shorter than it says: the file is damaged")
    return joined[_LENGTH.size : end], joined[end:]
