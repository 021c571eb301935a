"""What is measured of a model's outputs, by what the model predicts.

Next words and classes have a cross-entropy; an encoder's features only their error. Of images few
or none have a known class, so their cross-entropy is that of the uncoded model's own prediction,
which it exceeds by just the divergence, and accuracy is counted where the class is known.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from splitcodec.errors import InputError
from splitcodec.splitting.images import SplitImageModel
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import (
    LogitComparison,
    compare_features,
    compare_heads,
    compare_logits,
    logit_chunks,
)

CODED, UNCODED, KL, AGREEMENT, COUNT = range(5)
"""First columns of the sums a document: cross-entropies, divergence, agreements, predictions."""
RIGHT, RIGHT_UNCODED, KNOWN = range(5, 8)
"""More of them for images with a class: right answers, those of the uncoded model, known ones."""


_DRAWN_AT_ONCE = 1 << 22
"""Documents of resamples that memory holds."""


def interval(
    table: np.ndarray, column: int, resamples: int, by: int = COUNT
) -> tuple[float, float]:
    """95 % bootstrap interval of column/COUNT, or another, over documents (rows of `table`)."""
    generator, ratios = np.random.default_rng(0), []
    at_once = max(1, _DRAWN_AT_ONCE // len(table))
    for start in range(0, resamples, at_once):
        size = (min(at_once, resamples - start), len(table))
        drawn = generator.integers(len(table), size=size)
        counts = table[drawn, by].sum(1)
        ratios.append(table[drawn, column].sum(1)[counts > 0] / counts[counts > 0])
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)


def summarise(table: np.ndarray, resamples: int) -> dict[str, float]:
    """The fidelity columns of the table of points; InputError if nothing was predicted."""
    if not table[:, COUNT].any():
        raise InputError("nothing is predicted of sequences of one token; take longer ones")
    mean = table.sum(0) / table[:, COUNT].sum()
    low, high = interval(table, CODED, resamples)
    kl_low, kl_high = interval(table, KL, resamples)
    return {
        "cross_entropy": float(mean[CODED]),
        "cross_entropy_low": low,
        "cross_entropy_high": high,
        "perplexity": float(np.exp(mean[CODED])),
        "cross_entropy_uncoded": float(mean[UNCODED]),
        "kl": float(mean[KL]),
        "kl_low": kl_low,
        "kl_high": kl_high,
        "top1_agreement": float(mean[AGREEMENT]),
    }


Output = tuple[SplitModel, Tensor]
"""Final states (predictions, channels), and the model whose head they go through."""


class Measure:
    """Of a language model: the next token. Figures are (predictions, n), summed a document."""

    def compare(self, uncoded: Output, coded: Sequence[Output], labels: Tensor) -> list[Tensor]:
        """The figures of each of `coded` beside the uncoded model; `labels`: what is true."""
        model, states = uncoded
        expected = model.logits_of(states, labels)
        compared = compare_heads(uncoded, coded)
        found = [own.logits_of(states, labels) for own, states in coded]
        return [self._figures(*pair, expected) for pair in zip(compared, found, strict=True)]

    def _figures(self, compared: LogitComparison, coded: Tensor, uncoded: Tensor) -> Tensor:
        """From a comparison, and the labels' logits."""
        columns = {
            CODED: compared.coded_normaliser - coded,
            UNCODED: compared.reference_normaliser - uncoded,
            KL: compared.kl,
            AGREEMENT: compared.agreement,
            COUNT: torch.ones_like(compared.kl),
        }
        return torch.stack([columns[i] for i in range(5)], dim=-1)

    def summary(self, table: np.ndarray, resamples: int) -> dict[str, float | None]:
        """The fidelity columns of the table of points, from sums (documents, n)."""
        return summarise(table, resamples)


class ImageMeasure(Measure):
    """Of an image model, whose outputs are small enough to be compared whole."""

    def compare(self, uncoded: Output, coded: Sequence[Output], labels: Tensor) -> list[Tensor]:
        """See Measure."""
        parts = [
            [self.figures(estimate, target, labels[part]) for estimate in estimates]
            for part, (target, *estimates) in logit_chunks(uncoded, *coded)
        ]
        return [torch.cat(own) for own in zip(*parts, strict=True)]

    def figures(self, estimate: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Of outputs of the coded and the uncoded model, (predictions, …)."""
        raise NotImplementedError


class ClassMeasure(ImageMeasure):
    """Of an image classifier."""

    def figures(self, estimate: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """See ImageMeasure."""
        compared = compare_logits(target, estimate)
        expected = (target.softmax(-1) * target).sum(-1)
        uncoded = compared.reference_normaliser - expected
        known = labels >= 0
        columns = [uncoded + compared.kl, uncoded, compared.kl, compared.agreement]
        columns.append(torch.ones_like(uncoded))
        columns += [(outputs.argmax(-1) == labels) & known for outputs in (estimate, target)]
        return torch.stack([column.double() for column in [*columns, known]], dim=-1)

    def summary(self, table: np.ndarray, resamples: int) -> dict[str, float | None]:
        """See Measure; accuracy of pictures whose class is known, None where none is."""
        found: dict[str, float | None] = {**summarise(table, resamples)}
        known = table[:, KNOWN].sum()
        low, high = interval(table, RIGHT, resamples, by=KNOWN) if known else (None, None)
        accuracies = (table[:, [RIGHT, RIGHT_UNCODED]].sum(0) / known).tolist() if known else None
        found["accuracy"], found["accuracy_uncoded"] = accuracies or (None, None)
        return found | {"accuracy_low": low, "accuracy_high": high}


class FeatureMeasure(ImageMeasure):
    """Of an encoder: relative square error and cosine of its features, by token."""

    def figures(self, estimate: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """See ImageMeasure."""
        compared = compare_features(target, estimate)
        nothing = torch.zeros_like(compared.kl)
        columns = [compared.kl, nothing, compared.kl, compared.agreement, nothing + 1]
        return torch.stack(columns, dim=-1)

    def summary(self, table: np.ndarray, resamples: int) -> dict[str, float | None]:
        """See Measure."""
        found: dict[str, float | None] = {**summarise(table, resamples)}
        cosine = found.pop("top1_agreement")
        error = 2 * table[:, KL].sum() / table[:, COUNT].sum()
        return found | {
            "top1_agreement": None,
            "feature_error": float(error),
            "feature_cosine": cosine,
        }


def measure_of(model: SplitModel) -> Measure:
    """What to measure of a model's outputs."""
    if not isinstance(model, SplitImageModel):
        return Measure()
    return ClassMeasure() if model.predicts == "labels" else FeatureMeasure()
