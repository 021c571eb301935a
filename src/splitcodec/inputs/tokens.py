"""Tokens: the documents of a partition, cut into sequences that the model reads from the start.

Every sequence is a window on one document; none crosses into another. Which documents and which
windows are taken follows from the parameters and the text alone: nothing here is random.
"""

import itertools
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from splitcodec.errors import SettingsError
from splitcodec.files import atomic_path
from splitcodec.inputs.models import read_identity
from splitcodec.inputs.shards import Shard
from splitcodec.inputs.tables import (
    RowGroups,
    open_table,
    read_columns,
    table_writer,
    with_meaning,
)
from splitcodec.inputs.tokenisers import WindowEncoder
from splitcodec.progress import progress
from splitcodec.settings import Partition

SCHEMA = pa.schema(
    [("document", pa.string()), ("sequence", pa.int32()), ("tokens", pa.list_(pa.int32()))]
)
_ROW_GROUP_SEQUENCES = 1024
_GROUPS_HELD = 64


@dataclass(frozen=True)
class TokenTable:
    """Sequences (tokens,) int64 in file order, the document of each, and what the file says of
    itself."""

    documents: Sequence[str]
    sequences: Sequence[np.ndarray]
    metadata: dict[str, Any]

    def __len__(self) -> int:
        return len(self.sequences)

    def values(self, row: int) -> np.ndarray:
        """What the model reads of a sequence: its token ids (tokens,) int64."""
        return self.sequences[row]

    def marks(self, row: int, tokens: int) -> np.ndarray:
        """What a store says of each of a sequence's tokens: its id."""
        return self.sequences[row]


def read_tokens(path: Path) -> TokenTable:
    """Open a token file, of which row groups are read when they are wanted.

    Raises InputError when it is missing, damaged or not a token file, here or at a damaged group.
    """
    file, metadata = open_table(path, "tokens")
    rows = RowGroups(path, file, ["document", "tokens"], _GROUPS_HELD, _columns)
    documents, sequences = (_Column(rows, name) for name in ("document", "tokens"))
    return TokenTable(documents, sequences, metadata)


def _columns(table: pa.Table) -> dict[str, Sequence]:
    """The columns of a row group."""
    tokens = table["tokens"].combine_chunks()
    flat, ends = tokens.flatten().to_numpy(), np.cumsum(tokens.value_lengths())
    return {"document": table["document"].to_pylist(), "tokens": np.split(flat, ends[:-1])}


class _Column(Sequence):
    """One value a row."""

    def __init__(self, rows: RowGroups, name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Any:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        group, place = self._rows.find(row % len(self))
        value = group[self._name][place]
        return value if self._name == "document" else value.astype(np.int64)


def tokenise(
    documents: Path,
    model: Path,
    partition: str,
    rule: Partition,
    others: dict[str, Partition],
    sequence_length: int,
    start_token: bool,
    out: Path,
    shard: Shard | None = None,
) -> None:
    """Write the sequences of one partition of `documents` to the Parquet file `out`.

    Each document is cut into consecutive windows of `sequence_length` tokens, the start token that
    heads each included; the rest at the end is a window if it has 16 tokens. Of all windows
    `rule.sequences` are taken: documents take turns, and each gives windows at even distances.
    A `shard` takes its part of the sequences from its part of the documents, which are in order.
    Raises SettingsError when the rule selects nothing, shares documents with one of `others`, or
    the model cannot read sequences this long; InputError when text or model are missing or damaged.
    """
    file, text = open_table(documents, "text")
    names = _names(file, documents)
    chosen = choose_documents(names, partition, rule, others)
    identity = read_identity(model)
    encoder = WindowEncoder.load(model, sequence_length, start_token)
    meaning = {
        "model": model.name,
        "model_hash": identity["model_hash"],
        "tokeniser_hash": identity["tokeniser_sha256"],
        "partition": partition,
        "sequence_length": sequence_length,
        "start_token": start_token,
        "text": text,
    }
    wanted = rule.sequences
    if shard:
        meaning["shard"] = str(shard)
        chosen = chosen[shard.share(len(chosen))]
        wanted = len(range(wanted)[shard.share(wanted)])
    out.parent.mkdir(parents=True, exist_ok=True)
    with _Spill(out.parent) as spill:
        windows = _encode(file, documents, chosen, wanted, encoder, spill)
        if not windows:
            raise SettingsError(_no_window(partition, shard, wanted, encoder.shortest))
        quotas = share_out(windows, wanted)
        rows = (
            (names[index], window)
            for index in sorted(quotas)
            for window in _windows(encoder, spill.read(index), quotas[index])
        )
        with atomic_path(out) as temporary:
            _write(temporary, rows, with_meaning(SCHEMA, "tokens", meaning))


def _no_window(partition: str, shard: Shard | None, wanted: int, shortest: int) -> str:
    if not wanted:
        return f"shard {shard} of partition {partition} has no sequence to take; use fewer shards"
    where = f"shard {shard} of partition" if shard else "partition"
    mend = "choose longer ones, or fewer shards" if shard else "choose longer ones"
    return f"no document of {where} {partition} has {shortest} tokens; {mend}"


def partition_texts(
    documents: Path, partition: str, rule: Partition, others: dict[str, Partition]
) -> Iterator[str]:
    """The texts of one partition of `documents`, in order of name; errors as in `tokenise`."""
    file, _ = open_table(documents, "text")
    chosen = choose_documents(_names(file, documents), partition, rule, others)
    return _texts(file, documents, chosen)


def share_out(windows: dict[int, int], wanted: int) -> dict[int, int]:
    """How many of its windows each document gives: each one a turn, in the dict's order.

    `windows` maps a document to how many windows it has; documents that give none are left out.
    """
    quotas = dict.fromkeys(windows, 0)
    turn = list(windows)
    while wanted > 0 and turn:
        for document in turn[:wanted]:
            quotas[document] += 1
        wanted -= len(turn)
        turn = [document for document in turn if quotas[document] < windows[document]]
    return {document: quota for document, quota in quotas.items() if quota}


def spread(items: Sequence[int]) -> list[int]:
    """The items in an order of which every beginning lies evenly over them.

    Multiples of the golden ratio, modulo one, in order of size (in integers, so that it is the
    same everywhere): neighbours in this order are far apart in `items`.
    """
    return [items[i] for i in sorted(range(len(items)), key=lambda i: i * 2654435769 % 2**32)]


def _names(file: pq.ParquetFile, path: Path) -> list[str]:
    return read_columns(path, file, ["document"])["document"].to_pylist()


def choose_documents(
    names: list[str], partition: str, rule: Partition, others: dict[str, Partition]
) -> list[int]:
    """Indices of a partition's documents; raises SettingsError if none, or shared with others."""
    chosen = _select(names, rule)
    if not chosen:
        raise SettingsError(
            f"partition {partition} selects none of the {len(names)} documents "
            f"({names[0]} to {names[-1]}); correct its rule"
        )
    for other, other_rule in others.items():
        if shared := sorted(set(chosen) & set(_select(names, other_rule))):
            said = ", ".join(names[i] for i in shared[:5]) + (", …" if len(shared) > 5 else "")
            raise SettingsError(
                f"partitions {partition} and {other} share {len(shared)} documents ({said}); "
                "make their rules disjoint"
            )
    return chosen


def _select(names: list[str], rule: Partition) -> list[int]:
    """Indices of the documents that a partition's rule names; `names` are in order."""
    if rule.documents is not None:
        globs = rule.documents
        return [i for i, name in enumerate(names) if any(fnmatchcase(name, g) for g in globs)]
    if rule.between is not None:
        first, last = rule.between
        numbers = ((i, re.search(r"\d+", name)) for i, name in enumerate(names))
        return [i for i, number in numbers if number and first <= int(number[0]) <= last]
    start, stop = (round(share * len(names)) for share in rule.share)
    return list(range(len(names))[start:stop])


class _Spill:
    """Tokens of documents, on disk while it is not yet known which windows will be taken."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, index: int, tokens: np.ndarray) -> None:
        """Keep the tokens of document `index`."""
        self._places[index] = (self._file.tell(), len(tokens))
        self._file.write(tokens.tobytes())

    def read(self, index: int) -> np.ndarray:
        """The tokens of document `index`, mapped and not loaded."""
        self._file.flush()
        offset, count = self._places[index]
        return np.memmap(self._file, np.int32, "r", offset, count)


def _encode(
    file: pq.ParquetFile,
    path: Path,
    chosen: list[int],
    wanted: int,
    encoder: WindowEncoder,
    spill: _Spill,
) -> dict[int, int]:
    """Encode documents until `wanted` of them have a window, or all are done.

    Returns how many windows each has, in the order in which documents take turns.
    """
    windows: dict[int, int] = {}
    waiting = spread(chosen)
    while waiting and len(windows) < wanted:
        missing = wanted - len(windows)
        turn, waiting = waiting[:missing], waiting[missing:]
        counts = {}
        texts = _texts(file, path, sorted(turn))
        for index in progress(sorted(turn), "tokenising"):
            tokens = encoder.encode(next(texts))
            if count := encoder.windows(len(tokens)):
                counts[index] = count
                spill.write(index, tokens)
        windows |= {index: counts[index] for index in turn if index in counts}
    return windows


def _texts(file: pq.ParquetFile, path: Path, rows: list[int]) -> Iterator[str]:
    """The texts at `rows`, which are in order; holds one row group at a time."""
    first, rows = 0, deque(rows)
    for group in range(file.num_row_groups):
        after = first + file.metadata.row_group(group).num_rows
        if rows and rows[0] < after:
            texts = read_columns(path, file, ["text"], group)["text"]
            while rows and rows[0] < after:
                yield texts[rows.popleft() - first].as_py()
        first = after


def _windows(encoder: WindowEncoder, tokens: np.ndarray, quota: int) -> Iterator[np.ndarray]:
    """`quota` windows of a document's tokens, at even distances."""
    count = encoder.windows(len(tokens))
    return (encoder.window(tokens, (2 * i + 1) * count // (2 * quota)) for i in range(quota))


def _write(path: Path, rows: Iterable[tuple[str, np.ndarray]], schema: pa.Schema) -> None:
    with table_writer(path, schema) as writer:
        numbered = enumerate(rows)
        while group := list(itertools.islice(numbered, _ROW_GROUP_SEQUENCES)):
            columns = {
                "document": [document for _, (document, _) in group],
                "sequence": [number for number, _ in group],
                "tokens": [tokens for _, (_, tokens) in group],
            }
            writer.write_table(pa.table(columns, schema=schema))
