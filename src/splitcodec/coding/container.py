"""The container file, `.rdc`: a header, a chunk a sequence, and an index that completes it.

`docs/format.md` specifies every byte. Chunks are written as they come and read one at a time, from
a file in any order and from a pipe as they come, so that neither side holds a partition; a file
without its index was not finished. Checksums are CRC-32C, each bound to the header, so that parts
of two files cannot be mixed unnoticed. Nothing that a file says is believed before it has been
held against the size of the file, and nothing that a pipe says takes memory before it has come.
"""

import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self, TextIO

import google_crc32c
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from splitcodec.errors import BitstreamError, InputError, reason_of
from splitcodec.files import atomic_path

MAGIC = b"\x89RDC\r\n\x1a\n"
END = b"\x89RDCEND\n"
VERSION = 4
MOST_VALUES = 1 << 30
"""Tokens times channels above which no sequence is decoded unless the caller asks for it."""

_PREFIX = struct.Struct("<8sHI")
_CHECKSUM = struct.Struct("<I")
_CHUNK = struct.Struct("<II")
_CHUNK_NUMBER = struct.Struct("<III")
_TOTALS = struct.Struct("<IQ")
_FOOTER = struct.Struct("<IQI8s")
_NO_MORE = b"\0\0\0\0"
_ENTRY = np.dtype([("tokens", "<u4"), ("size", "<u4")])
_LONGEST_HEADER = 1 << 16
_LARGEST = (1 << 32) - 1
PIPE = Path("-")
"""Stands for standard input or output."""
STANDARD_INPUT = Path("standard input")
"""What messages call it."""
_PIECE = 1 << 16

_Name = Annotated[str, Field(max_length=1000, pattern=r"^\P{Cc}*$")]
_Count = Annotated[int, Field(ge=1, le=_LARGEST)]


class Header(BaseModel):
    """What a file is of. `longest`: no sequence has more tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    codec: _Name
    codec_hash: _Name
    coder: _Name
    model: _Name
    model_hash: _Name
    split: Annotated[int, Field(ge=0, le=_LARGEST)]
    channels: _Count
    dtype: Literal["float32"] = "float32"
    longest: _Count
    partition: _Name
    data_hash: _Name


class ContainerWriter:
    """Writes a container to a binary file from front to back; nothing is sought or kept."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        text = header.model_dump_json().encode()
        start = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
        self._file, self._longest = file, header.longest
        self._entries: list[tuple[int, int]] = []
        self._seed = _CHECKSUM.pack(google_crc32c.value(start))
        file.write(start + self._seed)
        file.flush()

    def add(self, tokens: int, payload: bytes) -> None:
        """Append the chunk of one sequence."""
        if not 1 <= tokens <= self._longest or len(payload) > _LARGEST:
            raise ValueError(f"a chunk of {tokens} tokens, of at most {self._longest}")
        checksum = _chunk_checksum(self._seed, len(self._entries), tokens, payload)
        self._file.write(_CHUNK.pack(tokens, len(payload)))
        self._file.write(payload)
        self._file.write(_CHECKSUM.pack(checksum))
        self._file.flush()
        self._entries.append((tokens, len(payload)))

    def finish(self) -> None:
        """Write the index; only now the file is one."""
        index = np.array(self._entries, _ENTRY)
        self._file.write(_end_of_file(self._seed, index))
        self._file.flush()


@contextmanager
def write_container(path: Path, header: Header) -> Iterator[ContainerWriter]:
    """A writer to `path`, where the whole file appears when the block succeeds.

    What goes to `PIPE`, a named pipe or a device goes there as it is made.
    """
    with ExitStack() as stack:
        if path == PIPE:
            file = standard(sys.stdout, "output")
        elif path.is_fifo() or path.is_char_device():
            file = stack.enter_context(path.open("wb"))
        else:
            file = stack.enter_context(stack.enter_context(atomic_path(path)).open("wb"))
        writer = ContainerWriter(file, header)
        yield writer
        writer.finish()


class Container:
    """A container on disk: header and index in memory, payloads read when asked for."""

    def __init__(
        self, path: Path, header: Header, seed: bytes, offsets: np.ndarray, index: np.ndarray
    ) -> None:
        self.path, self.header = path, header
        self._seed, self._offsets, self._index = seed, offsets, index

    @classmethod
    def open(cls, path: Path, most_values: int = MOST_VALUES) -> Self:
        """Read header and index; BitstreamError if the file is foreign, damaged or not finished.

        Refused too is a file that declares more than `most_values` for a sequence.
        """
        with _opened(path) as file:
            header, seed = _read_header(path, file)
            start = file.tell()
            index = _read_index(path, file, seed, start)
        ends = start + np.cumsum(_chunk_sizes(index))
        if ((index["tokens"] < 1) | (index["tokens"] > header.longest)).any():
            raise _damaged(path, "a sequence is empty or longer than the header says")
        _check_size(path, header, most_values)
        return cls(path, header, seed, ends - _chunk_sizes(index), index)

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return self._index["tokens"].tolist()

    @cached_property
    def sizes(self) -> list[int]:
        """Payload bytes of each sequence."""
        return self._index["size"].tolist()

    @property
    def payload_bytes(self) -> int:
        """Entropy-coded bytes, without header, framing and index."""
        return sum(self.sizes)

    def table(self) -> list[tuple[int, int, int]]:
        """Of each chunk: where in the file it begins, tokens, payload bytes."""
        return list(zip(self._offsets.tolist(), self.lengths, self.sizes, strict=True))

    def read(self, sequence: int) -> bytes:
        """The payload of one sequence; BitstreamError unless it fits its checksum."""
        tokens, size = self._index[sequence].tolist()
        with _opened(self.path) as file:
            file.seek(int(self._offsets[sequence]))
            start, payload = file.read(_CHUNK.size), file.read(size)
            checksum = file.read(_CHECKSUM.size)
        expected = _chunk_checksum(self._seed, sequence, tokens, payload)
        if (start, checksum) != (_CHUNK.pack(tokens, size), _CHECKSUM.pack(expected)):
            raise _damaged(self.path, f"chunk {sequence} does not match its checksum")
        return payload

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """Tokens and payload of each sequence, in order."""
        return ((tokens, self.read(i)) for i, tokens in enumerate(self.lengths))

    def verify(self) -> None:
        """Read all chunks; BitstreamError at the first that does not fit its checksum."""
        for _ in self.chunks():
            pass


def standard(stream: TextIO | None, name: str) -> BinaryIO:
    """The bytes of standard input or output; raises InputError if the program was given none."""
    if stream is None:
        raise InputError(f"standard {name} is closed; name a file")
    return stream.buffer


def read_front_to_back(
    file: BinaryIO,
    most_values: int = MOST_VALUES,
    alone: bool = False,
    source: Path = STANDARD_INPUT,
) -> tuple[Header, Iterator[tuple[int, bytes]]]:
    """Header, and tokens and payload of each sequence as it comes: of what cannot be sought in.

    A pipe or a socket, say. Raises BitstreamError as `Container.open` does, for damage where it is
    met: only when the iterator has ended is it known that the stream was whole. Nothing may follow
    one that comes `alone`. Messages call it `source`.
    """
    header, seed = _read_header(source, file)
    _check_size(source, header, most_values)
    return header, _chunks(file, source, header, seed, alone)


def _chunks(
    file: BinaryIO, source: Path, header: Header, seed: bytes, alone: bool
) -> Iterator[tuple[int, bytes]]:
    entries: list[tuple[int, int]] = []
    while start := _up_to(file, len(_NO_MORE)):
        if start == _NO_MORE:
            expected = _end_of_file(seed, np.array(entries, _ENTRY))
            if start + _up_to(file, len(expected) - len(start)) != expected:
                raise _damaged(source, "its end does not match what came before")
            if alone and file.read(1):
                raise _damaged(source, "it goes on after its end")
            return
        tokens, size = _CHUNK.unpack((start + _up_to(file, 4)).ljust(_CHUNK.size, b"\0"))
        if tokens > header.longest:
            raise _damaged(source, "a sequence is longer than the header says")
        payload, checksum = _up_to(file, size), _up_to(file, _CHECKSUM.size)
        expected = _CHECKSUM.pack(_chunk_checksum(seed, len(entries), tokens, payload))
        if len(payload) < size or checksum != expected:
            raise _damaged(source, f"chunk {len(entries)} does not match its checksum")
        entries.append((tokens, size))
        yield tokens, payload
    raise _damaged(source, "it ends before its index: it was cut off, or never finished")


def _check_size(path: Path, header: Header, most_values: int) -> None:
    if header.longest * header.channels > most_values:
        raise BitstreamError(
            f"{path} declares sequences of {header.longest} tokens of {header.channels} "
            f"channels; here at most {most_values} values are decoded at a time"
        )


def _up_to(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or all that come; the memory is that of what comes, not of what is said.

    Of an unbuffered pipe a single read gives no more than what is there.
    """
    parts = []
    while size and (part := file.read(min(size, _PIECE))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except IsADirectoryError:
        raise InputError(
            f"{path} is a directory; name a file (`splitcodec show` tells of a codec's directory)"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _read_header(path: Path, file: BinaryIO) -> tuple[Header, bytes]:
    """The header, and its checksum, with which all others begin."""
    prefix = _up_to(file, _PREFIX.size)
    if not prefix.startswith(MAGIC):
        raise BitstreamError(f"{path} is not a splitcodec container")
    if len(prefix) < _PREFIX.size:
        raise _damaged(path, "it ends inside the header")
    _, version, size = _PREFIX.unpack(prefix)
    if version != VERSION:
        raise BitstreamError(
            f"{path} has format version {version}; this program reads {VERSION}: encode it again"
        )
    text = _up_to(file, size) if size <= _LONGEST_HEADER else b""
    seed = _up_to(file, _CHECKSUM.size)
    if len(text) < size or len(seed) < _CHECKSUM.size:
        raise _damaged(path, "it ends inside the header")
    if _CHECKSUM.pack(google_crc32c.value(prefix + text)) != seed:
        raise _damaged(path, "the header does not match its checksum")
    try:
        return Header.model_validate_json(text), seed
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        said = reason_of(f"{place:.100}: {first['msg']:.100}")
        raise _damaged(path, f"the header is not valid ({said})") from None


def _read_index(path: Path, file: BinaryIO, seed: bytes, start: int) -> np.ndarray:
    """The index of a file whose chunks begin at `start`."""
    end = file.seek(0, 2)
    file.seek(max(start, end - _FOOTER.size))
    footer = file.read(_FOOTER.size)
    if len(footer) < _FOOTER.size or not footer.endswith(END):
        raise _damaged(path, "it ends before its index: it was cut off, or never finished")
    count = _FOOTER.unpack(footer)[0]
    size = len(_NO_MORE) + count * _ENTRY.itemsize
    place = end - _FOOTER.size - size
    if place < start:
        raise _damaged(path, "its index is larger than the file")
    file.seek(place)
    data = file.read(size)
    index = np.frombuffer(data, _ENTRY, offset=len(_NO_MORE))
    if _end_of_file(seed, index) != data + footer:
        raise _damaged(path, "its index does not match its checksum")
    if start + int(_chunk_sizes(index).sum()) != place:
        raise _damaged(path, "its chunks and its index have different sizes")
    return index


def _chunk_sizes(index: np.ndarray) -> np.ndarray:
    """Bytes of whole chunks, int64."""
    return index["size"].astype(np.int64) + (_CHUNK.size + _CHECKSUM.size)


def _end_of_file(seed: bytes, index: np.ndarray) -> bytes:
    """What follows the last chunk: a chunk of no tokens, the index and the footer."""
    totals = _TOTALS.pack(len(index), int(index["tokens"].sum(dtype=np.uint64)))
    covered = _NO_MORE + index.tobytes() + totals
    return covered + _CHECKSUM.pack(google_crc32c.value(seed + covered)) + END


def _chunk_checksum(seed: bytes, number: int, tokens: int, payload: bytes) -> int:
    start = seed + _CHUNK_NUMBER.pack(number, tokens, len(payload))
    return google_crc32c.extend(google_crc32c.value(start), payload)


def _damaged(path: Path, reason: str) -> BitstreamError:
    return BitstreamError(f"{path} is damaged: {reason}; encode it again")
