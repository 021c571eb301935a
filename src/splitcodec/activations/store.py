"""The Parquet store of representations: one row a position, one row group a sequence.

Columns: document, sequence, position, token, representation (the channels' values, little-endian,
as fixed-size bytes). Bytes rather than lists because Parquet has no bfloat16, and because they
write 7 and read 4 times faster than lists of half floats (benchmarks/activation_layout.py). What
the values are (dtype, channels, model, split, partition, tokeniser) stands as JSON in the schema's
metadata under `splitcodec`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from splitcodec.errors import InputError
from splitcodec.files import sha256_of_file
from splitcodec.inputs.tables import damaged, open_table, read_columns, table_writer, with_meaning

_MEANING = {"model": str, "model_hash": str, "split": int, "data_hash": str, "partition": str}
_MEANING |= {"channels": int}
_DTYPES = ("float16", "bfloat16", "float32")
_MOST_CHANNELS = 1 << 20


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right to the longest.

    tokens (batch, tokens) int64, representation (batch, tokens, channels) float32,
    lengths (batch,) int64.
    """

    documents: list[str]
    tokens: Tensor
    representation: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved = (part.to(device) for part in (self.tokens, self.representation, self.lengths))
        return Batch(self.documents, *moved)

    @property
    def mask(self) -> Tensor:
        """(batch, tokens) bool: true where there is a token."""
        return mask_of(self.lengths, self.tokens.shape[1])


def mask_of(lengths: Tensor, tokens: int) -> Tensor:
    """(batch, tokens) bool: true before each sequence's length (batch,)."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


def schema_of(channels: int, dtype: torch.dtype, metadata: dict[str, Any]) -> pa.Schema:
    """The store's schema; `metadata` is completed by dtype and channels."""
    meaning = {
        **metadata,
        "dtype": str(dtype).removeprefix("torch."),
        "channels": channels,
        "layout": "one row a position; representation holds the channels' values, little-endian",
    }
    fields = [
        ("document", pa.dictionary(pa.int32(), pa.string())),
        ("sequence", pa.int32()),
        ("position", pa.int32()),
        ("token", pa.int32()),
        ("representation", pa.binary(channels * dtype.itemsize)),
    ]
    return with_meaning(pa.schema(fields), "activations", meaning)


class ActivationWriter:
    """Writes sequence after sequence; holds one at a time. Use as a context manager."""

    def __init__(
        self, path: Path, channels: int, dtype: torch.dtype, metadata: dict[str, Any]
    ) -> None:
        self._schema = schema_of(channels, dtype, metadata)
        self._dtype = dtype
        self._writer = table_writer(path, self._schema)

    def __enter__(self) -> Self:
        self._file = self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)

    def write(self, document: str, sequence: int, tokens: Tensor, representation: Tensor) -> None:
        """Append one sequence: tokens (tokens,), representation (tokens, channels)."""
        count = len(tokens)
        stored = representation.to("cpu", self._dtype).contiguous()
        if not torch.isfinite(stored).all():
            raise InputError(
                f"document {document}: the representation is not finite in {self._dtype}; "
                "set activations.dtype to float32"
            )
        values = pa.py_buffer(stored.view(torch.uint8).numpy())
        columns = [
            pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [document]),
            pa.array(np.full(count, sequence, np.int32)),
            pa.array(np.arange(count, dtype=np.int32)),
            pa.array(tokens.to("cpu", torch.int32).numpy()),
            pa.FixedSizeBinaryArray.from_buffers(
                self._schema.field("representation").type, count, [None, values]
            ),
        ]
        self._file.write_table(pa.table(columns, schema=self._schema))


class Activations:
    """Reads a store; one sequence is one row group, so any sequence is read alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self.metadata = open_table(path, "activations")
        known = {key: type(self.metadata.get(key)) for key in _MEANING}
        dtype, self.channels = self.metadata.get("dtype"), self.metadata.get("channels", 0)
        if known != _MEANING or dtype not in _DTYPES or not 0 < self.channels <= _MOST_CHANNELS:
            raise damaged(path, ValueError("its meaning is not that of a store"))
        self._dtype = getattr(torch, dtype)
        if not self._file.schema_arrow.equals(schema_of(self.channels, self._dtype, {})):
            raise damaged(path, ValueError("its columns are not those of a store"))
        self.lengths = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]

    @property
    def of_pictures(self) -> bool:
        """Whether a sequence is a picture: such a store says how feature maps were cut."""
        return "patch" in self.metadata

    @property
    def first_is_sink(self) -> bool:
        """Whether each sequence begins with a massive activation, as text does, unlike pictures."""
        return not self.of_pictures

    @property
    def tokens(self) -> int:
        """Number of positions in the store."""
        return sum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def check_same_data(self, other: "Activations") -> None:
        """Raise InputError unless both stores come from the same tokens of the same model.

        Of pictures there may be more tokens at one split than at another.
        """
        keys = ("data_hash", "model_hash")
        same = all(self.metadata.get(key) == other.metadata.get(key) for key in keys)
        lengths = [store.lengths if store.first_is_sink else len(store) for store in (self, other)]
        if not same or lengths[0] != lengths[1]:
            raise InputError(
                f"{self.path} and {other.path} do not hold the same tokens of the same model; "
                "extract both from one token file"
            )

    def check_made_from(self, inputs: Path) -> None:
        """Raise InputError unless the store was extracted from this file of tokens or pictures."""
        if self.metadata["data_hash"] != sha256_of_file(inputs):
            raise InputError(f"{self.path} was not extracted from {inputs}; name the file that was")

    def check_split(self, split: int) -> None:
        """Raise InputError unless this is the representation at `split`."""
        found = self.metadata.get("split")
        if found != split:
            raise InputError(f"{self.path} is of split {found}, where that of split {split} is due")

    def read(self, sequences: Sequence[int]) -> Batch:
        """The named sequences as one batch; raises InputError if the file is damaged."""
        parts = [self._read_one(int(i)) for i in sequences]
        return Batch(
            documents=[document for document, _, _ in parts],
            tokens=_pad([tokens for _, tokens, _ in parts]),
            representation=_pad([values for _, _, values in parts]),
            lengths=torch.tensor([len(tokens) for _, tokens, _ in parts]),
        )

    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """All sequences, or those of `order`, `size` at a time."""
        order = range(len(self)) if order is None else order
        for start in range(0, len(order), size):
            yield self.read(order[start : start + size])

    def documents(self, sequences: Sequence[int]) -> list[str]:
        """The document of each of the named sequences, without their values."""
        tables = (read_columns(self.path, self._file, ["document"], int(i)) for i in sequences)
        return [self._document_of(table) for table in tables]

    def _read_one(self, sequence: int) -> tuple[str, Tensor, Tensor]:
        columns = ["document", "token", "representation"]
        table = read_columns(self.path, self._file, columns, sequence)
        values = table.column("representation").combine_chunks().buffers()[1]
        representation = torch.frombuffer(bytearray(values), dtype=self._dtype)
        tokens = torch.from_numpy(table.column("token").to_numpy().astype(np.int64))
        values = representation.view(len(tokens), self.channels).float()
        return self._document_of(table), tokens, values

    def _document_of(self, table: pa.Table) -> str:
        try:
            return table.column("document")[0].as_py()
        except pa.ArrowException as error:
            raise damaged(self.path, error) from None


def _pad(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
