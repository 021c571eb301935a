"""Shards: consecutive parts of one file of ours, made by jobs apart, and how they are joined."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from splitcodec.errors import InputError, SettingsError
from splitcodec.files import atomic_path
from splitcodec.inputs.tables import (
    damaged,
    open_table,
    read_columns,
    read_meaning,
    table_writer,
    with_meaning,
)


class Shard(NamedTuple):
    """The `number`th, from one, of `count` parts."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """3/8 as the third of eight; raises SettingsError for anything else."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 0 < number <= count:
            raise SettingsError(f"--shard {text!r} is no part of a whole, such as 3/8")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, total: int) -> slice:
        """Which of `total` things in order are this shard's: all shards' together are all."""
        return slice(*((self.number - end) * total // self.count for end in (1, 0)))


def join(shards: Sequence[Path], out: Path) -> None:
    """Write the rows of all shards of one file, in the shards' order, to `out`.

    Holds one row group at a time. Shards of activations and pixels give the very bytes that one
    job would have written. Raises InputError when a shard is missing, damaged or of another whole.
    """
    ordered, meaning = _in_order(shards)
    kind = meaning["kind"]
    files = [open_table(path, kind)[0] for path in ordered]
    schema = with_meaning(files[0].schema_arrow, kind, meaning)
    rows = 0
    with atomic_path(out) as temporary, table_writer(temporary, schema) as writer:
        for path, file in zip(ordered, files, strict=True):
            for group in range(file.num_row_groups):
                table = read_columns(path, file, schema.names, group)
                if kind == "tokens":  # numbered within their shard
                    table = _numbered(table, rows)
                writer.write_table(table.replace_schema_metadata(schema.metadata))
                rows += len(table)


def _in_order(shards: Sequence[Path]) -> tuple[list[Path], dict[str, Any]]:
    """The shards by number, if they are all of one whole, and what the whole means."""
    read = [_read(path) for path in shards]
    first, (own, whole, schema) = shards[0], read[0]
    for path, (shard, meaning, fields) in zip(shards, read, strict=True):
        if (shard.count, meaning, fields) != (own.count, whole, schema):
            raise InputError(f"{path} and {first} are not shards of one whole; delete and remake")
    ordered = sorted(zip((shard.number for shard, _, _ in read), shards, strict=True))
    # A number that is not at its place is missing before it, or there twice.
    places = itertools.zip_longest(range(1, own.count + 1), (number for number, _ in ordered))
    for place, number in places:
        if number != place:
            twice = number is not None and (place is None or number < place)
            said = f"shard {number} is there twice" if twice else f"shard {place} is missing"
            raise InputError(f"these are not the {own.count} shards of {first.name}: {said}")
    return [path for _, path in ordered], whole


def _read(path: Path) -> tuple[Shard, dict[str, Any], pa.Schema]:
    """Which shard a file is, what the whole means, and its columns."""
    meaning = read_meaning(path)
    named = meaning.pop("shard", None)
    if meaning.get("kind") not in ("tokens", "pixels", "activations") or not isinstance(named, str):
        raise InputError(f"{path} is no shard; name files made with --shard")
    file, _ = open_table(path, meaning["kind"])
    schema = file.schema_arrow.remove_metadata()
    if "sequence" not in schema.names:
        raise damaged(path, ValueError("its rows have no number"))
    return Shard.parse(named), meaning, schema


def _numbered(table: pa.Table, start: int) -> pa.Table:
    numbers = pa.array(np.arange(start, start + len(table), dtype=np.int32))
    return table.set_column(table.schema.get_field_index("sequence"), "sequence", numbers)
