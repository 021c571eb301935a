"""Reference lines of a rate-distortion figure: sending the token ids instead.

A receiver that has the front can run it on the tokens, so these rates bound what a lossless
system needs: log₂ V bits a token uncompressed; entropy-coded under a unigram model of the training
tokens; and the model's own cross-entropy in bits, the estimate of the source's entropy.
"""

import math
from typing import Any

import numpy as np
import torch

from splitcodec.coding import entropy
from splitcodec.inputs.tokens import TokenTable

_LOW_BITS = 8
_SMOOTHING = 0.5


def token_rates(
    train: TokenTable, evaluation: TokenTable, vocabulary: int, cross_entropy: float
) -> dict[str, Any]:
    """The three rates in bits a token, over all tokens of `evaluation`."""
    tokens = np.concatenate(evaluation.sequences)
    stream = code_unigram(np.concatenate(train.sequences), tokens, vocabulary)
    return {
        "vocabulary": vocabulary,
        "tokens": len(tokens),
        "documents": len(set(evaluation.documents)),
        "token_ids_bits_per_token": math.log2(vocabulary),
        "unigram_bits_per_token": 8 * len(stream) / len(tokens),
        "model_bits_per_token": cross_entropy / math.log(2),
    }


def code_unigram(train: np.ndarray, tokens: np.ndarray, vocabulary: int) -> bytes:
    """`tokens` entropy-coded under the smoothed frequencies of `train`; decodes again.

    Frequencies of a whole vocabulary do not fit 16 bits, so an id is coded as its high part and,
    given that, its low byte: the same model by the chain rule.
    """
    tables = _unigram_tables(train, vocabulary)
    symbols, indexes = _parts(tokens)
    (stream,) = entropy.encode(symbols, indexes, tables)
    if not torch.equal(entropy.decode([stream], indexes, tables), symbols):
        raise AssertionError("the unigram stream does not decode to its tokens")
    return stream


def _parts(tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Two symbols a token, (1, 2·tokens), and their tables: 0 for high, 1 + high for low."""
    ids = torch.from_numpy(tokens.astype(np.int32))
    high, low = ids >> _LOW_BITS, ids & ((1 << _LOW_BITS) - 1)
    symbols = torch.stack([high, low], dim=-1).view(1, -1)
    indexes = torch.stack([torch.zeros_like(high), 1 + high], dim=-1).view(1, -1)
    return symbols, indexes


def _unigram_tables(train: np.ndarray, vocabulary: int) -> entropy.Tables:
    width = 1 << _LOW_BITS
    counts = np.zeros(-(-vocabulary // width) * width)
    counts[:vocabulary] = _SMOOTHING + np.bincount(train, minlength=vocabulary)[:vocabulary]
    grid = torch.from_numpy(counts).view(-1, width)
    rows = [grid.sum(1) / grid.sum(), *(grid / grid.sum(1, keepdim=True))]
    return entropy.quantise_tables(rows, [0] * len(rows))
