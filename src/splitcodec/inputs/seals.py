"""A seal on Parquet files: checksums of what Parquet leaves unprotected.

Parquet protects the content of pages, but not what says where they are and how to read them. The
seal lies between the last page and the footer, where no other reader looks: CRC-32C of every column
chunk, in the footer's order, u32 each; their number, u32; CRC-32C of the seal so far and the
footer, u32; 8 bytes magic.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import pyarrow.parquet as pq

_SEAL = b"\x89RDCSEAL"
_SEAL_END = struct.Struct("<II8s")
_FOOTER_END = struct.Struct("<I4s")


def seal(path: Path) -> None:
    """Put the seal before the footer of a Parquet file."""
    metadata = pq.read_metadata(path)
    with path.open("rb+") as file:
        checksums = [
            google_crc32c.value(_chunk(file, metadata, group, column))
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        ]
        footer = _footer(file)
        start = struct.pack(f"<{len(checksums)}I", *checksums)
        start += struct.pack("<I", len(checksums))
        checksum = google_crc32c.value(start + footer)
        file.seek(-len(footer), os.SEEK_END)
        file.write(start + struct.pack("<I", checksum) + _SEAL + footer)


def check_footer(path: Path) -> None:
    """Raise ValueError unless the seal fits the footer."""
    with path.open("rb") as file:
        footer = _footer(file)
        start = _read_seal(file, len(footer))
        checksum = _SEAL_END.unpack(start[-_SEAL_END.size :])[1]
        covered = start[: -len(_SEAL) - 4] + footer
        if google_crc32c.value(covered) != checksum:
            raise ValueError("its footer does not match its checksum")


def check_chunks(path: Path, metadata: pq.FileMetaData, columns: list[str], row_group: int) -> None:
    """Raise ValueError unless columns of a row group match their checksums.

    Of the seal only these checksums are read: a file may have a million.
    """
    names = [metadata.schema.column(i).path.split(".")[0] for i in range(metadata.num_columns)]
    with path.open("rb") as file:
        start, size = _seal_place(file, _footer_size(file))
        if size != 4 * metadata.num_row_groups * len(names) + _SEAL_END.size:
            raise ValueError("its seal is of other columns")
        file.seek(start + 4 * row_group * len(names))
        checksums = struct.unpack(f"<{len(names)}I", file.read(4 * len(names)))
        for column in (i for i, name in enumerate(names) if name in columns):
            expected = checksums[column]
            if google_crc32c.value(_chunk(file, metadata, row_group, column)) != expected:
                raise ValueError(f"column {names[column]} does not match its checksum")


def _footer(file: BinaryIO) -> bytes:
    """The footer of a Parquet file, with its length and magic."""
    size = _footer_size(file)
    file.seek(-size, os.SEEK_END)
    return file.read(size)


def _footer_size(file: BinaryIO) -> int:
    """Bytes of the footer of a Parquet file, with its length and magic."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _FOOTER_END.size))
    last = file.read(_FOOTER_END.size)
    size = int.from_bytes(last[:4], "little") + _FOOTER_END.size
    if len(last) < _FOOTER_END.size or not last.endswith(b"PAR1") or size > end:
        raise ValueError("it is no Parquet file, or was cut off")
    return size


def _read_seal(file: BinaryIO, footer: int) -> bytes:
    """The whole seal of a file with a footer of so many bytes."""
    start, size = _seal_place(file, footer)
    file.seek(start)
    return file.read(size)


def _seal_place(file: BinaryIO, footer: int) -> tuple[int, int]:
    """Where the seal of a file with a footer of so many bytes begins, and its bytes."""
    end = file.seek(0, os.SEEK_END) - footer
    file.seek(max(0, end - _SEAL_END.size))
    last = file.read(min(end, _SEAL_END.size))
    size = _SEAL_END.size
    if len(last) == size:
        count, _, magic = _SEAL_END.unpack(last)
        size += 4 * count
    if len(last) < _SEAL_END.size or magic != _SEAL or size > end:
        raise ValueError("it has no seal: it was not written by this version")
    return end - size, size


def _chunk(file: BinaryIO, metadata: pq.FileMetaData, group: int, column: int) -> bytes:
    """The bytes of one column of one row group."""
    chunk = metadata.row_group(group).column(column)
    offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
    start, size = (
        min(offset for offset in offsets if offset is not None),
        chunk.total_compressed_size,
    )
    if start < 0 or size < 0 or start + size > file.seek(0, os.SEEK_END):
        raise ValueError("a column lies outside the file")
    file.seek(start)
    return file.read(size)
