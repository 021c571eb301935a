"""One forward pass over a file of tokens or pixels writes the representations at all splits."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from splitcodec.activations.store import ActivationWriter
from splitcodec.files import atomic_path, sha256_of_file
from splitcodec.inputs.model_inputs import InputTable, read_inputs
from splitcodec.inputs.shards import Shard
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel, check_context


@torch.inference_mode()
def extract(
    model: SplitModel,
    inputs: Path,
    outputs: dict[int, Path],
    dtype: torch.dtype,
    batch_sequences: int,
    sequences: int | None = None,
    shard: Shard | None = None,
) -> None:
    """Write one store for each split in `outputs`, all complete or none.

    Of the file's sequences all are taken, or `sequences` of them, spread evenly; of their batches
    a `shard` takes its part.

    Memory is bounded by one batch. The split at the last block is the *reference*: the uncoded
    final representation, from which the head alone gives the uncoded logits.
    """
    table = read_inputs(inputs)
    for split in outputs:
        model.check_split(split)
    meaning = {**table.metadata, "data_hash": sha256_of_file(inputs), **model.meaning}
    chosen = spread_evenly(len(table), sequences)
    starts = range(0, len(chosen), batch_sequences)
    if shard:
        meaning["shard"] = str(shard)
        starts = starts[shard.share(len(starts))]
    with ExitStack() as stack:
        # Left in the opposite order: no store takes its place before all of them are written.
        places = {split: stack.enter_context(atomic_path(path)) for split, path in outputs.items()}
        writers = {
            split: stack.enter_context(
                ActivationWriter(
                    place, model.channels_at(split), dtype, {**meaning, "split": split}
                )
            )
            for split, place in places.items()
        }
        for start in progress(starts, "extracting"):
            _write_batch(model, table, chosen[start : start + batch_sequences], writers)


def spread_evenly(total: int, wanted: int | None) -> list[int]:
    """`wanted` of the numbers below `total`, both ends included; all if it is None."""
    count = total if wanted is None else min(wanted, total)
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]


def _write_batch(
    model: SplitModel, table: InputTable, rows: Sequence[int], writers: dict[int, ActivationWriter]
) -> None:
    values = [torch.from_numpy(table.values(row)) for row in rows]
    batch = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    check_context(model, batch.shape[1])
    for split, representation in model.fronts(batch, list(writers)).items():
        for row, states in zip(rows, representation, strict=True):
            marks = torch.from_numpy(table.marks(row, len(states)))
            writers[split].write(table.documents[row], row, marks, states[: len(marks)])
