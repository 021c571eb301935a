"""Fidelity of the model's output on decoded representations, against the uncoded model.

Cross-entropy and divergence in nats a predicted token; a sequence of T tokens has T - 1 of them,
while rates count all T. Intervals are 95 % percentile bootstraps over documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitcodec.activations.store import Activations, Batch
from splitcodec.errors import BitstreamError
from splitcodec.evaluation.bitstreams import (
    FileDecoder,
    model_of_codec,
    representation_of,
)
from splitcodec.evaluation.measures import CODED, COUNT, UNCODED, Measure, measure_of
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel

_RANKED_AT_ONCE = 2048
"""Entries of the vocabulary."""


@dataclass
class Sums:
    """Sums over predictions, a row of figures a document."""

    by_document: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, documents: list[str], figures: Tensor, rows: Tensor) -> None:
        """Add `figures` (tokens, n), where `rows` (tokens,) says which of `documents` each is."""
        totals = torch.zeros(len(documents), figures.shape[1]).double()
        totals.index_add_(0, rows.cpu(), figures.double().cpu())
        for document, total in zip(documents, totals.numpy(), strict=True):
            self.by_document[document] = self.by_document.get(document, 0) + total

    def table(self) -> np.ndarray:
        """(documents, n)."""
        return np.stack([self.by_document[name] for name in sorted(self.by_document)])


@torch.inference_mode()
def evaluate(
    model: SplitModel,
    activations: Activations,
    references: Activations,
    codecs: list[Path],
    bitstreams: list[Path],
    batch_sequences: int,
    resamples: int,
) -> list[dict[str, Any]]:
    """One row of the table of points for every bitstream.

    Bitstreams are decoded here, in this process, with codecs found by hash among `codecs`;
    several of one codec must decode to the same representation, which is evaluated once, by the
    model as it learned with the codec. What it is compared with is always the original `model`.
    """
    activations.check_same_data(references)
    references.check_split(model.blocks)
    groups = _by_codec([FileDecoder(path, codecs, model) for path in bitstreams])
    for decoder in (d for group in groups for d in group):
        decoder.check_same_data(activations)
    models = [model_of_codec(model, own.directory, own.meaning) for own, *_ in groups]
    sums = [Sums() for _ in groups]
    bits, documents = np.zeros(len(groups)), []
    split = activations.metadata["split"]
    starts = range(0, len(activations), batch_sequences)
    for start in progress(starts, "evaluating"):
        rows = range(start, min(start + batch_sequences, len(activations)))
        batch, reference = activations.read(rows), references.read(rows)
        documents += batch.documents
        decoded = [_decode_alike(group, rows) for group in groups]
        for i, (group, changed) in enumerate(zip(groups, models, strict=True)):
            codec, sent = group[0].codec, representation_of(batch, group[0].meaning, changed)
            inputs = (part.to(codec.device) for part in (sent, batch.lengths, batch.tokens))
            bits[i] += float(codec(*inputs).bits.sum())
        coded = list(zip(models, decoded, strict=True))
        _compare(model, split, batch, reference, coded, sums)
    return [
        _row(decoder, activations, float(rate), total, resamples, measure_of(model))
        | {"by_document": by_document(decoder, documents, total)}
        for group, rate, total in zip(groups, bits, sums, strict=True)
        for decoder in group
    ]


@torch.inference_mode()
def evaluate_uncoded(
    model: SplitModel, references: Activations, batch_sequences: int, resamples: int
) -> dict[str, float]:
    """The uncoded model's own figures, from its stored final representation."""
    references.check_split(model.blocks)
    total = Sums()
    starts = range(0, len(references), batch_sequences)
    for start in progress(starts, "evaluating uncoded"):
        batch = references.read(range(start, min(start + batch_sequences, len(references))))
        own = [(model, batch.representation)]
        _compare(model, model.blocks, batch, batch, own, [total])
    return measure_of(model).summary(total.table(), resamples)


@torch.inference_mode()
def ranks_of_labels(model: SplitModel, references: Activations, batch_sequences: int) -> Tensor:
    """How often the true token was the uncoded model's r-th guess, (vocabulary,) int64."""
    counts = torch.zeros(model.vocabulary, dtype=torch.int64)
    starts = range(0, len(references), batch_sequences)
    for start in progress(starts, "ranking"):
        batch = references.read(range(start, min(start + batch_sequences, len(references))))
        states = model.final_states(batch.representation, model.blocks)
        states = states[model.labelled(batch.mask).to(model.device)]
        labels = model.labels(batch.tokens, batch.mask).to(model.device)
        counts += torch.bincount(_ranks(model, states, labels).cpu(), minlength=len(counts))
    return counts


def _ranks(model: SplitModel, states: Tensor, labels: Tensor) -> Tensor:
    """The rank of each label (tokens,) among the logits of `states`; of equal ones the lowest id
    comes first, as a decoder that knows no label would have it."""
    own, ranks = states.new_zeros(len(states)), torch.zeros_like(labels)
    # As these products round it: in half precision they differ from a product with one row alone.
    for ids, part in _parts_of_head(model, states):
        own += part.where(ids == labels[:, None], 0).sum(-1)
    for ids, part in _parts_of_head(model, states):
        equal = (part == own[:, None]) & (ids < labels[:, None])
        ranks += ((part > own[:, None]) | equal).sum(-1)
    return ranks


def _parts_of_head(model: SplitModel, states: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids, and their logits (tokens, ids)."""
    first = 0
    for part in model.head_in_parts(states, _RANKED_AT_ONCE):
        yield torch.arange(first, first + part.shape[1], device=part.device), part
        first += part.shape[1]


def _by_codec(decoders: list[FileDecoder]) -> list[list[FileDecoder]]:
    groups: dict[str, list[FileDecoder]] = {}
    for decoder in decoders:
        groups.setdefault(decoder.meaning["hash"], []).append(decoder)
    return list(groups.values())


def _decode_alike(decoders: list[FileDecoder], rows: range) -> Tensor:
    first, *others = (decoder.decode(rows) for decoder in decoders)
    if any(not torch.equal(first, other) for other in others):
        raise BitstreamError(
            f"bitstreams of {decoders[0].directory} with different coders decode differently"
        )
    return first


def _compare(
    model: SplitModel,
    split: int,
    batch: Batch,
    reference: Batch,
    coded: list[tuple[SplitModel, Tensor]],
    sums: list[Sums],
) -> None:
    """Add every predicted token of a batch to the sums of each decoded representation.

    `coded` has each with the model that goes on from it; `reference` is the original `model`'s.
    """
    scored = model.labelled(batch.mask)
    targets = model.labels(batch.tokens, batch.mask).to(model.device)
    rows = scored.nonzero()[:, 0]
    kept = scored.to(model.device)
    measure = measure_of(model)
    finals = [(own, own.final_states(d, split)[kept]) for own, d in coded]
    uncoded = model.final_states(reference.representation, model.blocks)[kept]
    for figures, total in zip(
        measure.compare((model, uncoded), finals, targets), sums, strict=True
    ):
        total.add(batch.documents, figures, rows)


def by_document(decoder: FileDecoder, documents: list[str], total: Sums) -> list[dict[str, Any]]:
    """Tokens, bits, predicted tokens and their cross-entropies (nats, summed) of each document.

    `documents` has the document of each sequence. Bits are those of its streams, with a share of
    what the file has beside streams. For resampling documents, as intervals of differences need.
    """
    share = decoder.size / decoder.container.payload_bytes if decoder.container.payload_bytes else 0
    tokens, bits = dict.fromkeys(documents, 0), dict.fromkeys(documents, 0.0)
    for document, (_, count, size) in zip(documents, decoder.container.table(), strict=True):
        tokens[document] += count
        bits[document] += 8 * size * share
    return [
        {
            "document": document,
            "tokens": tokens[document],
            "bits": bits[document],
            "predicted_tokens": int(row[COUNT]),
            "cross_entropy": float(row[CODED]),
            "cross_entropy_uncoded": float(row[UNCODED]),
        }
        for document, row in sorted(total.by_document.items())
    ]


def _row(
    decoder: FileDecoder,
    activations: Activations,
    bits: float,
    total: Sums,
    resamples: int,
    measure: Measure,
) -> dict[str, Any]:
    tokens, header, meaning = activations.tokens, decoder.header, decoder.meaning
    compressed = header.coder in ("deflate", "zstd")
    pictures = len(activations) if activations.of_pictures else None
    return {
        **{key: getattr(header, key) for key in ("model", "split", "coder")},
        "codec": meaning["name"],
        **{key: meaning[key] for key in ("mode", "lambda", "seed")},
        "partition": header.partition,
        "tokens": tokens,
        "documents": len(total.by_document),
        "bits_per_token_estimated": None if compressed else bits / tokens,
        "bits_per_token_payload": 8 * decoder.container.payload_bytes / tokens,
        "bits_per_token_file": 8 * decoder.size / tokens,
        "bits_per_picture": 8 * decoder.size / pictures if pictures else None,
        **measure.summary(total.table(), resamples),
        "codec_hash": meaning["hash"],
        "data_hash": header.data_hash,
    }
