"""One forward pass over a token file writes the representations at all splits."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from splitcodec.activations.store import ActivationWriter
from splitcodec.files import atomic_path, sha256_of_file
from splitcodec.inputs.tokens import TokenTable, read_tokens
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel, check_context


@torch.inference_mode()
def extract(
    model: SplitModel,
    tokens: Path,
    outputs: dict[int, Path],
    dtype: torch.dtype,
    batch_sequences: int,
) -> None:
    """Write one store for each split in `outputs`, all complete or none.

    Memory is bounded by one batch. The split at the last block is the *reference*: the uncoded
    final representation, from which the head alone gives the uncoded logits.
    """
    table = read_tokens(tokens)
    check_context(model, max(len(sequence) for sequence in table.sequences))
    for split in outputs:
        model.check_split(split)
    meaning = {**table.metadata, "data_hash": sha256_of_file(tokens)}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ActivationWriter(
                    stack.enter_context(atomic_path(path)),
                    model.channels,
                    dtype,
                    {**meaning, "split": split},
                )
            )
            for split, path in outputs.items()
        }
        starts = range(0, len(table.sequences), batch_sequences)
        for start in progress(starts, "extracting"):
            rows = range(start, min(start + batch_sequences, len(table.sequences)))
            _write_batch(model, table, rows, writers)


def _write_batch(
    model: SplitModel, table: TokenTable, rows: Sequence[int], writers: dict[int, ActivationWriter]
) -> None:
    sequences = [torch.from_numpy(table.sequences[row]).long() for row in rows]
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    for split, representation in model.fronts(batch, list(writers)).items():
        for row, sequence, values in zip(rows, sequences, representation, strict=True):
            writers[split].write(table.documents[row], row, sequence, values[: len(sequence)])
