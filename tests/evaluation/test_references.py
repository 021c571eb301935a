import math

import numpy as np
import pytest

from splitcodec.evaluation.references import code_unigram, token_rates
from splitcodec.inputs.tokens import TokenTable


def draw(vocabulary, count, seed):
    """Tokens of a Zipf-like source; its probabilities."""
    shares = 1 / np.arange(3, vocabulary + 3)
    shares = np.random.default_rng(9).permutation(shares / shares.sum())
    return np.random.default_rng(seed).choice(vocabulary, count, p=shares).astype(np.int64)


def ideal_bits(train, tokens, vocabulary):
    """Code length under frequencies with half a count added for each id."""
    counts = 0.5 + np.bincount(train, minlength=vocabulary)
    return -np.log2(counts[tokens] / counts.sum()).sum()


@pytest.mark.parametrize("vocabulary", [200, 257, 5_000, 49_152])
def test_the_unigram_stream_is_as_long_as_its_model_says(vocabulary):
    train, tokens = draw(vocabulary, 50_000, 0), draw(vocabulary, 20_000, 1)
    bits = 8 * len(code_unigram(train, tokens, vocabulary))
    ideal = ideal_bits(train, tokens, vocabulary)
    assert 0.999 * ideal < bits < 1.01 * ideal + 64


def test_ids_never_seen_can_be_coded():
    train = np.zeros(1000, np.int64)
    tokens = np.array([0, 999, 3, 256, 511, 512])
    assert len(code_unigram(train, tokens, 1000)) > 6


def test_rates_count_every_token():
    train = [draw(300, 40, seed) for seed in range(9)]
    evaluation = [draw(300, size, 50 + size) for size in (30, 16, 48)]
    tables = TokenTable(["a"] * 9, train, {}), TokenTable(["x", "y", "x"], evaluation, {})
    rates = token_rates(*tables, vocabulary=300, cross_entropy=2.0)
    stream = code_unigram(np.concatenate(train), np.concatenate(evaluation), 300)
    assert rates == {
        "vocabulary": 300,
        "tokens": 94,
        "documents": 2,
        "token_ids_bits_per_token": math.log2(300),
        "unigram_bits_per_token": 8 * len(stream) / 94,
        "model_bits_per_token": pytest.approx(2 / math.log(2)),
    }
