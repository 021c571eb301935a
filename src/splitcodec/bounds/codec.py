"""What is bounded about one codec: its latents, its Lipschitz constant, its rate on new text."""

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from splitcodec.activations.extraction import spread_evenly
from splitcodec.activations.moments import Moments
from splitcodec.activations.store import Activations
from splitcodec.bounds.covariance import covariance_bound, latent_covariance
from splitcodec.bounds.generalisation import (
    gap_with_error,
    held_out_slack,
    mean_and_error,
    pac_slack,
    rate_complexity,
)
from splitcodec.bounds.lipschitz import (
    certified_bound,
    gaussian_slope,
    rate_function,
    spectral_norm,
)
from splitcodec.bounds.rademacher import Rademacher
from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.transform import TransformCodec
from splitcodec.densities.channelwise import LEAST_LIKELIHOOD

DELTAS = (0.1, 0.05, 0.01)
_LIPSCHITZ_SEQUENCES, _LIPSCHITZ_TOKENS = 2, 64
_BATCH = 32
"""Sequences at once: codecs that walk from token to token take hardly longer for many."""


def covariance_of_codec(codec: TransformCodec, moments: Moments) -> dict[str, Any]:
    """The covariance bound of the latent, which is in steps; none where each token has its own.

    Nor for a trellis, whose steps are longer than the distance of its values, nor where token ids
    are sent, of which the mean of each token follows.
    """
    if codec.levels or codec.has_trellis or codec.sends_tokens:
        return {"channels_coded": codec.kept, "bits_per_token": None, "standard_error": None}
    bound = covariance_bound(latent_covariance(moments.covariance, codec.analysis), moments.tokens)
    return {"channels_coded": codec.kept, **asdict(bound)}


def lipschitz_of_codec(codec: TransformCodec, activations: Activations) -> dict[str, Any]:
    """Spectral norm of the Jacobian of a token's bits, at the start of a few sequences.

    In bits by a unit of the representation. What is certified of the prediction holds for
    sequences as long as the longest. None for a codec that sends token ids.
    """
    if codec.sends_tokens or codec.kept == 0:
        return {"spectral_norm": None}
    batch = activations.read(spread_evenly(len(activations), _LIPSCHITZ_SEQUENCES))
    count = min(_LIPSCHITZ_TOKENS, int(batch.lengths.min()))
    deviation = batch.representation[:, :count] - codec.means(None, count)[0].detach()
    found = spectral_norm(rate_function(codec), deviation)
    certified = None
    if isinstance(codec, ConditionalCodec):
        certified = certified_bound(codec.prediction, max(activations.lengths))
    return {"spectral_norm": float(found.max()), "prediction_certified": certified}


@torch.inference_mode()
def document_rates(codec: TransformCodec, store: Activations, sequences: int | None) -> Tensor:
    """Bits a token of each of `sequences` sequences, spread evenly, float64; all if None.

    A sequence is the part of a document that the store holds, or one of several; those of one
    document are averaged.
    """
    rates: dict[str, list[float]] = {}
    for batch in store.batches(_BATCH, spread_evenly(len(store), sequences)):
        bits = codec(batch.representation, batch.lengths, batch.tokens).bits.double().sum(1)
        for document, rate in zip(batch.documents, bits / batch.lengths, strict=True):
            rates.setdefault(document, []).append(float(rate))
    return torch.tensor([sum(own) / len(own) for own in rates.values()], dtype=torch.float64)


def highest_rate(codec: TransformCodec) -> float:
    """Bits a token at most, M of the bounds: each symbol's are bounded, a level's too."""
    symbols = codec.kept + getattr(codec.hyperparameters, "side_channels", 0) + bool(codec.levels)
    return -math.log2(LEAST_LIKELIHOOD) * symbols


def generalisation_of_codec(
    codec: TransformCodec,
    training: Activations,
    evaluation: Activations,
    sequences: int,
    complexity: Rademacher,
) -> dict[str, Any]:
    """Rates on both partitions, the gap measured, and the slack of both kinds of bound."""
    before = document_rates(codec, training, sequences)
    after = document_rates(codec, evaluation, None)
    (first, first_error), (second, second_error) = mean_and_error(before), mean_and_error(after)
    gap, error = gap_with_error(before, after)
    highest = highest_rate(codec)
    return {
        "training_bits_per_token": first,
        "training_standard_error": first_error,
        "evaluation_bits_per_token": second,
        "evaluation_standard_error": second_error,
        "gap": gap,
        "gap_standard_error": error,
        "held_out": [
            {"delta": delta, "samples": len(after), "slack": held_out_slack(after, highest, delta)}
            for delta in DELTAS
        ],
        "pac": _pac(codec, complexity, highest, training),
    }


def _pac(
    codec: TransformCodec, complexity: Rademacher, highest: float, training: Activations
) -> list[dict[str, float]]:
    """Of the closed form, whose class is that of all analysis transforms of no larger norm.

    Samples are documents, which are independent, unlike the sequences of one. At those that
    there are, and at 10 and 1,000 times as many, where the complexity falls with their root. Empty
    for codecs whose networks have no complexity that says anything.
    """
    if not isinstance(codec, Klt) or codec.sends_tokens or codec.kept == 0:
        return []
    slope = float(gaussian_slope(codec.scales()).norm())
    norm = float(codec.analysis.norm())
    sequences = complexity.samples
    documents = len(set(training.documents(spread_evenly(len(training), sequences))))
    # Documents as vectors of all their sequences have the same trace of the Gram matrix.
    upper = complexity.upper * sequences / documents
    rows = []
    for factor in (1, 10, 1000):
        linear = upper / factor**0.5
        own = rate_complexity(linear, slope, norm, codec.kept, min(training.lengths))
        samples = factor * documents
        for delta in DELTAS:
            slack = pac_slack(own, highest, samples, delta)
            rows.append({"delta": delta, "samples": samples, "complexity": own, "slack": slack})
    return rows
