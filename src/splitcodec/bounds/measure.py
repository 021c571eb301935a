"""All bounds of one split in one report."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splitcodec.activations.moments import moments_of
from splitcodec.activations.store import Activations
from splitcodec.bounds.covariance import CovarianceBound, covariance_bound, latent_covariance
from splitcodec.bounds.rademacher import gram_matrix, rademacher_of_gram
from splitcodec.codecs.registry import load_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.errors import InputError


def measure_bounds(
    activations: Activations, codecs: list[Path], draws: int, seed: int
) -> dict[str, Any]:
    """Covariance bound of the representation and of each codec's latent; Rademacher complexity.

    The representation is rounded to integers as in the paper; a codec's latent is in steps. Where
    there are too few tokens for a bound, it and its error are None. Raises InputError for a codec
    without a transform.
    """
    moments = moments_of(activations)
    whole = _as_json(covariance_bound(moments.covariance, moments.tokens))
    gram = gram_matrix(activations, moments.mean)
    rows = []
    for directory in codecs:
        codec, meaning = load_codec(directory)
        if not isinstance(codec, TransformCodec):
            raise InputError(f"{directory} holds {codec.name}, which has no transform to bound")
        covariance = latent_covariance(moments.covariance, codec.analysis)
        bound = covariance_bound(covariance, moments.tokens)
        names = {key: meaning[key] for key in ("codec", "lambda", "seed")}
        rows.append({**names, "channels_coded": codec.kept, **_as_json(bound)})
    metadata = activations.metadata
    return {
        **{key: metadata[key] for key in ("model", "split", "partition", "channels")},
        "tokens": moments.tokens,
        "sinks_left_out": moments.sinks,
        "covariance": {
            "representation_bits_per_token": whole["bits_per_token"],
            "standard_error": whole["standard_error"],
            "codecs": rows,
        },
        "rademacher": asdict(rademacher_of_gram(gram, draws, seed)),
    }


def _as_json(bound: CovarianceBound) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(bound).items()}
