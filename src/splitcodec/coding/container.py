"""The container file: one header, then one chunk a sequence, each with its own checksum.

Layout, little-endian: 8 bytes magic; u16 version; u32 header length; header (JSON, UTF-8); u32
CRC-32 of all before; then for each sequence u32 tokens, u32 bytes, u32 CRC-32 of the chunk's two
numbers and payload, payload. The header names codec (by hash), coder, model, split, data and the
number of sequences and tokens. Sizes are checked against the file before memory is taken.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitcodec.errors import BitstreamError, InputError
from splitcodec.files import atomic_path

MAGIC = b"\x89SPLC\r\n\x1a"
VERSION = 1
_PREFIX = struct.Struct("<8sHI")
_CHECKSUM = struct.Struct("<I")
_CHUNK = struct.Struct("<III")
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Container:
    """A decoded container: `header` as written, one payload and token count a sequence."""

    header: dict[str, Any]
    lengths: list[int]
    payloads: list[bytes]

    @property
    def payload_bytes(self) -> int:
        """Entropy-coded bytes, without header and chunk framing."""
        return sum(map(len, self.payloads))


def write_container(
    path: Path, header: dict[str, Any], lengths: list[int], payloads: list[bytes]
) -> None:
    """Write a container atomically; `header` is completed by the numbers of sequences, tokens."""
    header = {**header, "sequences": len(lengths), "tokens": sum(lengths)}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    start = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(start + _CHECKSUM.pack(zlib.crc32(start)))
        for tokens, payload in zip(lengths, payloads, strict=True):
            file.write(_CHUNK.pack(tokens, len(payload), _chunk_checksum(tokens, payload)))
            file.write(payload)


def read_container(path: Path) -> Container:
    """Read and check a container; raises BitstreamError if it is foreign or damaged anywhere."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    header, position = _read_header(path, data)
    lengths, payloads = [], []
    while position < len(data):
        if len(data) - position < _CHUNK.size:
            raise _damaged(path, "it ends inside a chunk")
        tokens, size, checksum = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        payload = data[position : position + size]
        if len(payload) != size or _chunk_checksum(tokens, payload) != checksum:
            raise _damaged(path, f"chunk {len(lengths)} does not match its checksum")
        position += size
        lengths.append(tokens)
        payloads.append(payload)
    if (len(lengths), sum(lengths)) != (header.get("sequences"), header.get("tokens")):
        raise _damaged(path, "the number of sequences or tokens differs from the header's")
    return Container(header, lengths, payloads)


def _read_header(path: Path, data: bytes) -> tuple[dict[str, Any], int]:
    if len(data) < _PREFIX.size or data[:8] != MAGIC:
        raise BitstreamError(f"{path} is not a splitcodec container")
    _, version, size = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise BitstreamError(f"{path} has format version {version}; this program reads {VERSION}")
    end = _PREFIX.size + size
    if size > _LONGEST_HEADER or len(data) < end + _CHECKSUM.size:
        raise _damaged(path, "it ends inside the header")
    if zlib.crc32(data[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise _damaged(path, "the header does not match its checksum")
    try:
        header = json.loads(data[_PREFIX.size : end])
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a JSON object")
    return header, end + _CHECKSUM.size


def _chunk_checksum(tokens: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<II", tokens, len(payload))))


def _damaged(path: Path, reason: str) -> BitstreamError:
    return BitstreamError(f"{path} is damaged: {reason}; encode it again")
