"""Reference lines of a rate-distortion figure: sending the token ids instead.

A receiver that has the front can run it on the tokens, so these rates bound what a lossless
system needs: log₂ V bits a token uncompressed; entropy-coded under a unigram model of the training
tokens; and the model's own cross-entropy in bits, which the source's entropy does not exceed. The
ranks of the model's guesses enclose that entropy once more.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.densities.tokens import TokenUnigram
from splitcodec.errors import InputError
from splitcodec.files import read_json
from splitcodec.inputs.tokens import TokenTable


def token_rates(
    train: TokenTable,
    evaluation: TokenTable,
    vocabulary: int,
    cross_entropy: float,
    ranks: Tensor,
) -> dict[str, Any]:
    """The rates in bits a token: the first two over all tokens of `evaluation`.

    `cross_entropy` in nats; ranks (vocabulary,): how often the true token was the r-th guess.
    """
    low, high = ranks_entropy(ranks)
    tokens = np.concatenate(list(evaluation.sequences))
    stream = code_unigram(train.sequences, tokens, vocabulary)
    return {
        "vocabulary": vocabulary,
        "tokens": len(tokens),
        "documents": len(set(evaluation.documents)),
        "token_ids_bits_per_token": math.log2(vocabulary),
        "unigram_bits_per_token": 8 * len(stream) / len(tokens),
        "model_bits_per_token": cross_entropy / math.log(2),
        "ranks_low_bits_per_token": low,
        "ranks_high_bits_per_token": high,
    }


def model_rate(path: Path) -> float:
    """The uncoded model's bits a token; raises InputError for what references did not make."""
    document = read_json(path)
    try:
        return float(document["model_bits_per_token"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} was not made by splitcodec references; run that first") from None


def code_unigram(train: Iterable[np.ndarray], tokens: np.ndarray, vocabulary: int) -> bytes:
    """`tokens` entropy-coded under the frequencies in sequences of `train`; decodes again."""
    density = TokenUnigram(vocabulary)
    for sequence in train:
        density.count(torch.from_numpy(sequence.astype(np.int64)))
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    all_there, tables, coder = torch.ones_like(ids, dtype=torch.bool), density.tables(), Encoder()
    density.encode(coder, ids, all_there, tables)
    (stream,) = coder.finish()
    decoder = Decoder([stream])
    if not torch.equal(density.decode(decoder, all_there, tables), ids):
        raise AssertionError("the unigram stream does not decode to its tokens")
    return stream


def ranks_entropy(ranks: Tensor) -> tuple[float, float]:
    """Shannon's bounds (1951, eq. 17) on the entropy of a text in bits a token, low and high.

    ranks (vocabulary,): how often the true token was the predictor's r-th guess. The upper bound
    holds for any predictor, and has Miller and Madow's correction (1955), as shares of few tokens
    have too small an entropy; the lower one assumes the guesses in the order of true probability.
    """
    tokens = ranks.sum().double()
    shares = ranks.double() / tokens
    numbers = torch.arange(len(shares) + 1, dtype=torch.float64)
    low = float((shares * torch.special.xlogy(numbers, numbers).diff()).sum()) / math.log(2)
    seen = shares[shares > 0]
    high = -(seen * seen.log2()).sum() + (len(seen) - 1) / (2 * tokens * math.log(2))
    return low, float(high)
