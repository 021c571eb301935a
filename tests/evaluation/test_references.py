import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from splitcodec.evaluation import fidelity
from splitcodec.evaluation.fidelity import ranks_of_labels
from splitcodec.evaluation.references import code_unigram, ranks_entropy, token_rates
from splitcodec.inputs.tokens import TokenTable


def draw(vocabulary, count, seed):
    """Tokens of a Zipf-like source; its probabilities."""
    shares = 1 / np.arange(3, vocabulary + 3)
    shares = np.random.default_rng(9).permutation(shares / shares.sum())
    return np.random.default_rng(seed).choice(vocabulary, count, p=shares).astype(np.int64)


def ideal_bits(train, tokens, vocabulary):
    """Code length under frequencies, with the share of ids seen once for those never seen."""
    counts = np.bincount(train, minlength=vocabulary)
    unseen = max((counts == 1).sum() / counts.sum(), 1e-3)
    shares = (1 - unseen) * counts / counts.sum() + unseen / vocabulary
    return -np.log2(shares[tokens]).sum()


@pytest.mark.parametrize("vocabulary", [200, 257, 5_000, 49_152])
def test_the_unigram_stream_is_as_long_as_its_model_says(vocabulary):
    train, tokens = draw(vocabulary, 50_000, 0), draw(vocabulary, 20_000, 1)
    bits = 8 * len(code_unigram([train], tokens, vocabulary))
    ideal = ideal_bits(train, tokens, vocabulary)
    assert 0.999 * ideal < bits < 1.01 * ideal + 64


def test_ids_never_seen_can_be_coded():
    train = np.zeros(1000, np.int64)
    tokens = np.array([0, 999, 3, 256, 511, 512])
    assert len(code_unigram([train], tokens, 1000)) > 6


def test_rates_count_every_token():
    train = [draw(300, 40, seed) for seed in range(9)]
    evaluation = [draw(300, size, 50 + size) for size in (30, 16, 48)]
    tables = TokenTable(["a"] * 9, train, {}), TokenTable(["x", "y", "x"], evaluation, {})
    rates = token_rates(*tables, vocabulary=300, cross_entropy=2.0, ranks=torch.full((2,), 1e9))
    stream = code_unigram(train, np.concatenate(evaluation), 300)
    assert rates == {
        "vocabulary": 300,
        "tokens": 94,
        "documents": 2,
        "token_ids_bits_per_token": math.log2(300),
        "unigram_bits_per_token": 8 * len(stream) / 94,
        "model_bits_per_token": pytest.approx(2 / math.log(2)),
        "ranks_low_bits_per_token": pytest.approx(1.0),
        "ranks_high_bits_per_token": pytest.approx(1.0),
    }


def test_of_equal_logits_the_lowest_id_comes_first(monkeypatch):
    """As a decoder would have to guess; in bfloat16 many are equal."""
    monkeypatch.setattr(fidelity, "_RANKED_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (40, 30), generator=generator).bfloat16()
    model = SimpleNamespace(head_in_parts=lambda states, size: states.split(size, -1))
    labels = torch.randint(0, 30, (40,), generator=generator)
    order = logits.float().argsort(dim=-1, descending=True, stable=True)
    expected = (order == labels[:, None]).nonzero()[:, 1]
    assert torch.equal(fidelity._ranks(model, logits, labels), expected)


def test_ranks_are_those_of_the_sorted_logits(world):
    store = world.activations(world.model.blocks, "evaluation")
    found = ranks_of_labels(world.model, store, 3)
    expected = torch.zeros_like(found)
    for row in range(len(store)):
        batch = store.read([row])
        logits = world.model.back(batch.representation, world.model.blocks)[0, :-1]
        better = logits > logits.gather(1, batch.tokens[0, 1:, None])
        expected += torch.bincount(better.sum(-1), minlength=len(found))
    assert found.sum() == expected.sum()
    assert (found - expected).abs().sum() <= 2  # in float32 guesses may tie


def test_shannons_bounds_enclose_the_entropy():
    uniform = torch.full((8,), 1e9)
    assert ranks_entropy(uniform) == pytest.approx((3.0, 3.0))
    # the true distribution after each context, in order: its entropy lies between
    shares = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]).double()
    entropy = float(-(shares * shares.log2()).sum(1).mean())
    low, high = ranks_entropy(1e6 * shares.mean(0))
    assert low < entropy < high
    assert ranks_entropy(torch.tensor([9, 0, 0])) == pytest.approx((0.0, 0.0))


def test_few_tokens_bias_neither_bound():
    shares = torch.tensor(0.9) ** torch.arange(100)
    limits = torch.tensor(ranks_entropy(1e9 * shares))
    drawn = torch.distributions.Multinomial(1000, probs=shares)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = torch.tensor([ranks_entropy(counts) for counts in drawn.sample((200,))])
    torch.testing.assert_close(found.mean(0), limits, atol=0.02, rtol=0)
