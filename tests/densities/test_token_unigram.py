import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcodec.densities.tokens import DIGIT, TokenUnigram

VOCABULARY = 1000


@pytest.fixture(scope="module")
def unigram():
    """Ids as a text has them: few are frequent, most are never seen."""
    density = TokenUnigram(VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    density.count((torch.rand(20_000, generator=generator) ** 4 * 600).long() + 100)
    return density


def test_probabilities_sum_to_one_and_none_is_zero(unigram):
    probabilities = unigram.probabilities()
    assert float(probabilities.sum()) == pytest.approx(1)
    assert probabilities.min() > 0


def test_tables_increase_strictly(unigram):
    tables = unigram.tables()
    assert len(tables.sizes) == 1 + -(-VOCABULARY // DIGIT)
    for row, size in zip(tables.cumulative, tables.sizes, strict=True):
        assert (row[:size].diff() > 0).all()


def test_bits_are_those_of_the_probabilities(unigram):
    probabilities = unigram.probabilities()
    bits = unigram.bits(torch.arange(VOCABULARY), unigram.tables()).double()
    entropy = float(-(probabilities * probabilities.log2()).sum())
    assert float((probabilities * bits).sum()) == pytest.approx(entropy, rel=0.005)


def test_frequent_ids_cost_less_than_naming_one_of_all(unigram):
    counts = unigram.counts.double()
    bits = unigram.bits(torch.arange(VOCABULARY), unigram.tables())
    mean = float((counts * bits).sum() / counts.sum())
    assert mean < 0.9 * torch.tensor(VOCABULARY).log2()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=50))
def test_ranks_lead_back_to_ids(unigram, ids):
    tokens = torch.tensor(ids)
    assert torch.equal(unigram.tokens(unigram.ranks()[tokens]), tokens)


def test_a_rank_beyond_the_vocabulary_is_no_crash(unigram):
    assert unigram.tokens(torch.tensor([VOCABULARY + 5])).item() < VOCABULARY


def test_before_anything_was_counted_all_ids_cost_alike():
    density = TokenUnigram(300)
    bits = density.bits(torch.arange(300), density.tables())
    assert bits.mean() < torch.tensor(300.0).log2() + 0.1
