"""Shards: consecutive parts of one file of ours, made by jobs apart, and how they are joined."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from splitcodec.errors import InputError, SettingsError
from splitcodec.files import atomic_path
from splitcodec.inputs.tables import (
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
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 0 < int(number) <= int(count)):
            raise SettingsError(f"--shard {text!r} is no part of a whole, such as 3/8")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, total: int) -> slice:
        """Which of `total` things in order are this shard's: all shards' together are all."""
        return slice(*((self.number - end) * total // self.count for end in (1, 0)))


def join(shards: Sequence[Path], out: Path) -> None:
    """Write the rows of all shards of one file, in the shards' order, to `out`.

    Holds one row group at a time. Shards of activations give the very bytes that one job would
    have written. Raises InputError when a shard is missing, damaged or of another whole.
    """
    ordered = _in_order(shards)
    meaning = read_meaning(ordered[0])
    kind = meaning["kind"]
    files = [open_table(path, kind)[0] for path in ordered]
    whole = {key: value for key, value in meaning.items() if key != "shard"}
    schema = with_meaning(files[0].schema_arrow, kind, whole)
    rows = 0
    with atomic_path(out) as temporary, table_writer(temporary, schema) as writer:
        for path, file in zip(ordered, files, strict=True):
            for group in range(file.num_row_groups):
                table = read_columns(path, file, schema.names, group)
                if kind == "tokens":  # numbered within their shard
                    table = _numbered(table, rows)
                writer.write_table(table.cast(schema))
                rows += len(table)


def _in_order(shards: Sequence[Path]) -> list[Path]:
    """The shards by number, if they are all of one whole."""
    meanings = {path: read_meaning(path) for path in shards}
    numbers = {}
    for path, meaning in meanings.items():
        if "shard" not in meaning:
            raise InputError(f"{path} is no shard; name files made with --shard")
        numbers[path] = Shard.parse(meaning.pop("shard"))
    first = shards[0]
    for path, meaning in meanings.items():
        if meaning != meanings[first] or numbers[path].count != numbers[first].count:
            raise InputError(f"{path} and {first} are not shards of one whole; delete and remake")
    found = [shard.number for shard in numbers.values()]
    count = numbers[first].count
    if sorted(found) != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(found))
        said = f"shard {missing[0]} is missing" if missing else "one is there twice"
        raise InputError(f"these are not the {count} shards of {first.name}: {said}")
    return sorted(shards, key=lambda path: numbers[path])


def _numbered(table: pa.Table, start: int) -> pa.Table:
    numbers = pa.array(np.arange(start, start + len(table), dtype=np.int32))
    return table.set_column(table.schema.get_field_index("sequence"), "sequence", numbers)
