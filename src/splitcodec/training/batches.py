"""Batches of sequences that a model and its codec learn from, drawn by number."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitcodec.activations.store import Activations, mask_of
from splitcodec.inputs.tokens import TokenTable
from splitcodec.splitting.model import SplitModel

_VALIDATION_BATCH = 8


@dataclass(frozen=True)
class TrainingBatch:
    """Sequences of one batch, padded on the right.

    tokens (batch, tokens), lengths (batch,); representation at the split and final representation
    of the original model, (batch, tokens, channels) each, where they are needed.
    """

    tokens: Tensor
    lengths: Tensor
    representation: Tensor | None = None
    reference: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(batch, tokens) bool: true where there is a token."""
        return mask_of(self.lengths, self.tokens.shape[1])


Draw = Callable[[list[int]], TrainingBatch]
"""Gives the sequences of some numbers as a batch."""


def from_stores(
    activations: Activations, references: Activations | None, device: torch.device
) -> Draw:
    """Draws stored sequences, with the original's final representation if it is given."""

    def draw(rows: list[int]) -> TrainingBatch:
        batch = activations.read(rows).to(device)
        reference = references.read(rows).representation.to(device) if references else None
        return TrainingBatch(batch.tokens, batch.lengths, batch.representation, reference)

    return draw


def from_tokens(tokens: TokenTable, original: SplitModel, reference: bool) -> Draw:
    """Draws token sequences, with the original's final representation if it is wanted."""

    def draw(rows: list[int]) -> TrainingBatch:
        sample = read_batch(tokens, rows, original.device)
        if not reference:
            return sample
        with torch.no_grad():
            final = original.front(sample.tokens, original.blocks)
        return TrainingBatch(sample.tokens, sample.lengths, reference=final)

    return draw


def read_batch(tokens: TokenTable, rows: list[int], device: torch.device) -> TrainingBatch:
    """The sequences of `rows`, by their token ids alone."""
    sequences = [torch.from_numpy(tokens.sequences[row]) for row in rows]
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)
    padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    return TrainingBatch(padded.to(device), lengths)


def in_batches(draw: Draw, total: int) -> list[TrainingBatch]:
    """All sequences in order, for validation."""
    starts = range(0, total, _VALIDATION_BATCH)
    return [draw(list(range(i, min(i + _VALIDATION_BATCH, total)))) for i in starts]
