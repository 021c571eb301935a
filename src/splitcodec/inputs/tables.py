"""Parquet files of this package, sealed; their meaning is JSON in the schema's metadata."""

import itertools
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from splitcodec import __version__
from splitcodec.errors import InputError, reason_of
from splitcodec.inputs.seals import check_chunks, check_footer, seal

METADATA_KEY = b"splitcodec"

Row = TypeVar("Row")

_WRITING = {
    "activations": {"compression": "none", "use_dictionary": ["document"]},
    "images": {"compression": "none"},  # they are compressed
}
"""How files are written where not in the common way, by kind."""


def with_meaning(schema: pa.Schema, kind: str, meaning: dict[str, Any]) -> pa.Schema:
    """`schema` with its kind, meaning and our version in its metadata."""
    whole = {**meaning, "kind": kind, "splitcodec": __version__}
    return schema.with_metadata({METADATA_KEY: json.dumps(whole)})


def open_table(path: Path, kind: str) -> tuple[pq.ParquetFile, dict[str, Any]]:
    """A Parquet file of ours and its meaning.

    Raises InputError when the file is missing, damaged, or is not of this kind.
    """
    file, meaning = _open(path)
    if meaning.get("kind") != kind:
        raise InputError(f"{path} holds {meaning.get('kind')}, not {kind}")
    return file, meaning


def read_meaning(path: Path) -> dict[str, Any]:
    """The meaning of any Parquet file of ours; raises InputError as `open_table` does."""
    return _open(path)[1]


def verify_table(path: Path) -> dict[str, Any]:
    """Read all of a Parquet file of ours, group by group; its meaning, or InputError."""
    file, meaning = _open(path)
    for group in range(file.num_row_groups):
        read_columns(path, file, file.schema_arrow.names, group)
    return meaning


def _open(path: Path) -> tuple[pq.ParquetFile, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the step that makes it first")
    try:
        check_footer(path)
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        meaning = json.loads((file.schema_arrow.metadata or {})[METADATA_KEY])
        if not isinstance(meaning, dict):
            raise ValueError("its meaning is no JSON object")
        return file, meaning
    except KeyError:
        raise InputError(f"{path} was not written by splitcodec (no meaning in it)") from None
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def read_columns(
    path: Path, file: pq.ParquetFile, columns: list[str], row_group: int | None = None
) -> pa.Table:
    """Columns of the file at `path`, whole or of one row group; InputError when it is damaged."""
    groups = range(file.num_row_groups) if row_group is None else [row_group]
    try:
        for group in groups:
            check_chunks(path, file.metadata, columns, group)
        if row_group is None:
            return file.read(columns).select(columns)
        return file.read_row_group(row_group, columns).select(columns)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise damaged(path, error) from None


class RowGroups:
    """The row groups of a file, found by row; those used last stay in memory.

    `made` is what is kept of a group's `columns`.
    """

    def __init__(
        self,
        path: Path,
        file: pq.ParquetFile,
        columns: list[str],
        held: int,
        made: Callable[[pa.Table], Any],
    ) -> None:
        groups = range(file.num_row_groups)
        self._ends = list(itertools.accumulate(file.metadata.row_group(i).num_rows for i in groups))
        self._group = lru_cache(held)(lambda i: made(read_columns(path, file, columns, i)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, row: int) -> tuple[Any, int]:
        """What was made of a row's group, and the row's place in it."""
        group = bisect_right(self._ends, row)
        return self._group(group), row - (self._ends[group - 1] if group else 0)


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of pages with checksums, for a schema with meaning; seals the file in the end."""
    kind = json.loads(schema.metadata[METADATA_KEY])["kind"]
    options = {"compression": "zstd", **_WRITING.get(kind, {})}
    with pq.ParquetWriter(path, schema, write_page_checksum=True, **options) as writer:
        yield writer
    seal(path)


def damaged(path: Path, error: Exception) -> InputError:
    """The error for a file that cannot be read to its end."""
    return InputError(f"{path} is damaged ({reason_of(error)}); delete it and rerun the step")


def grouped(rows: Iterable[Row], size: Callable[[Row], int], least: int) -> Iterator[list[Row]]:
    """Consecutive rows in lists of at least the size `least`, the last one perhaps smaller."""
    group, held = [], 0
    for row in rows:
        group.append(row)
        held += size(row)
        if held >= least:
            yield group
            group, held = [], 0
    if group:
        yield group
