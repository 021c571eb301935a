"""All bounds of one split in one report."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitcodec.activations.moments import Moments, moments_of, sample_tokens
from splitcodec.activations.store import Activations
from splitcodec.bounds.codec import (
    covariance_of_codec,
    generalisation_of_codec,
    lipschitz_of_codec,
)
from splitcodec.bounds.covariance import bound_given_previous, shrunk_bound, token_bound
from splitcodec.bounds.rademacher import Rademacher, gram_matrix, rademacher_of_gram
from splitcodec.bounds.rate_distortion import (
    gaussian_rate,
    independent_entropies,
    shannon_lower_bound,
)
from splitcodec.codecs.klt import whitened_transform
from splitcodec.codecs.registry import load_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.errors import InputError
from splitcodec.evaluation.bitstreams import check_fits
from splitcodec.settings import changes_front
from splitcodec.settings.measures import Bounds

DISTORTIONS = tuple(float(value) for value in np.geomspace(1e-3, 1.0, 13))
"""Nats a token at which the rate-distortion functions are given."""
_SAMPLE = 8192
_RIDGE = 1e-3
"""Of the mean of G, on its diagonal: enough to invert it, and little of the metric."""


def measure_bounds(
    activations: Activations,
    codecs: list[Path],
    effort: Bounds,
    seed: int,
    evaluation: Activations | None = None,
    sensitivity: Tensor | None = None,
    source_bits: float | None = None,
) -> dict[str, Any]:
    """Bounds of the representation in `activations` (training), and of each codec.

    The representation is rounded to integers as in the paper; a codec's latent is in steps. With
    `evaluation` also the generalisation gap; with `sensitivity` G the rate-distortion functions;
    with `source_bits`, the entropy of the tokens at most, the gap to it. What has no finite value
    is None. Raises InputError for a codec without a transform, and for an `evaluation` of another
    model or split, or of the training text.
    """
    if evaluation is not None:
        _check_held_out(activations, evaluation)
    moments = moments_of(activations, history=True)
    gram = gram_matrix(activations, moments)
    complexity = rademacher_of_gram(gram, effort.rademacher_draws, seed)
    rows = [
        _codec_row(path, activations, moments, complexity, effort, evaluation, source_bits)
        for path in codecs
    ]
    whole, given = token_bound(moments), bound_given_previous(moments)
    report = {
        **{key: activations.metadata[key] for key in ("model", "split", "partition", "channels")},
        "tokens": moments.tokens,
        "sinks_left_out": moments.sinks,
        "covariance": {
            "representation_bits_per_token": whole.bits_per_token,
            "standard_error": whole.standard_error,
            "given_previous": asdict(given),
            "whole_sequence": asdict(_sequence_bound(gram, activations)),
            "codecs": rows,
        },
        "rademacher": asdict(complexity),
        "source_bits_per_token": source_bits,
    }
    if sensitivity is not None:
        report["rate_distortion"] = _rate_distortion(activations, moments, sensitivity, seed)
    return _finite(report)


def _codec_row(
    directory: Path,
    activations: Activations,
    moments: Moments,
    complexity: Rademacher,
    effort: Bounds,
    evaluation: Activations | None,
    source_bits: float | None,
) -> dict[str, Any]:
    codec, meaning = load_codec(directory)
    check_fits(codec, meaning, directory, activations)
    if changes_front(meaning["mode"]):
        raise InputError(f"{directory} changed the front; choose a codec that left it as it was")
    if not isinstance(codec, TransformCodec):
        raise InputError(f"{directory} holds {codec.name}, which has no transform to bound")
    row = {"codec": meaning["name"], "lambda": meaning["lambda"], "seed": meaning["seed"]}
    row |= covariance_of_codec(codec, moments)
    row["lipschitz"] = lipschitz_of_codec(codec, activations)
    if evaluation is None or codec.sends_tokens:
        return row
    found = generalisation_of_codec(
        codec, activations, evaluation, effort.rate_sequences, complexity
    )
    row["generalisation"] = found
    if source_bits is not None:
        row["gap_to_source"] = found["evaluation_bits_per_token"] - source_bits
    return row


def _check_held_out(training: Activations, evaluation: Activations) -> None:
    evaluation.check_split(training.metadata["split"])
    if evaluation.metadata["model_hash"] != training.metadata["model_hash"]:
        raise InputError(f"{evaluation.path} is of another model than {training.path}")
    if evaluation.metadata["data_hash"] == training.metadata["data_hash"]:
        raise InputError(f"{evaluation.path} holds the text that codecs are trained on")
    if not len(evaluation):
        raise InputError(f"{evaluation.path} holds no sequences")


def _sequence_bound(gram: Tensor, activations: Activations) -> Any:
    """Of whole sequences as single vectors, the paper's: exact by the Gram matrix, shrunk."""
    dimensions = max(activations.lengths) * activations.channels
    spectrum = torch.linalg.eigvalsh(gram) / len(gram)
    return shrunk_bound(spectrum, dimensions, len(gram), activations.tokens / len(activations))


def _rate_distortion(
    activations: Activations, moments: Moments, sensitivity: Tensor, seed: int
) -> list[dict[str, float]]:
    """Gaussian R(D) and Shannon's lower bound of tokens by themselves, at each distortion."""
    forward, _ = whitened_transform(moments.covariance, sensitivity, _RIDGE)
    variances = (forward @ moments.covariance * forward).sum(1).clamp_min(0)
    values = sample_tokens(activations, _SAMPLE, seed).values.double()
    entropies, error = independent_entropies((values - moments.mean) @ forward.T)
    return [
        {
            "distortion": distortion,
            "gaussian_bits_per_token": gaussian_rate(variances, distortion).bits_per_token,
            "shannon_bits_per_token": shannon_lower_bound(entropies, distortion),
            "shannon_standard_error": error / math.log(2),
        }
        for distortion in DISTORTIONS
    ]


def _finite(value: Any) -> Any:
    """`value` with None for every number that is not finite, as JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
