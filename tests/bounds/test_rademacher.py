import itertools
import math

import pytest
import torch

from small_world import write_store
from splitcodec.activations.moments import Moments
from splitcodec.bounds.rademacher import gram_matrix, rademacher_of_gram

CHANNELS = 4
LENGTHS = (5, 3, 7, 2, 6)


def means(later, first=(0.0,) * CHANNELS):
    later, first = torch.tensor(later).double(), torch.tensor(first).double()
    return Moments(later, first, torch.eye(CHANNELS).double(), tokens=2, sinks=0)


ZERO = means((0.0,) * CHANNELS)


def vectors(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=generator, dtype=torch.float64)


def by_enumeration(rows):
    """Mean over all sign vectors of the norm of the signed sum, a sample."""
    count = len(rows)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=count)), dtype=torch.float64)
    return ((signs @ rows).norm(dim=1).mean() / count).item()


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_it_is_the_mean_over_all_signs(count):
    rows = vectors(count)
    found = rademacher_of_gram(rows @ rows.T, draws=20_000, seed=0)
    expected = by_enumeration(rows)
    assert found.value == pytest.approx(expected, abs=4 * found.standard_error + 1e-9)
    assert found.standard_error < 0.01 * expected
    assert (found.draws, found.samples) == (20_000, count)


def test_the_upper_bound_holds_and_is_tight_for_orthogonal_samples():
    for count in (2, 5, 10):
        rows = vectors(count, seed=count)
        found = rademacher_of_gram(rows @ rows.T, 5_000, seed=0)
        assert found.upper == pytest.approx(math.sqrt(rows.square().sum()) / count)
        assert by_enumeration(rows) <= found.upper
        assert found.value <= found.upper + 3 * found.standard_error
    orthogonal = rademacher_of_gram(9 * torch.eye(8), 100, seed=0)
    assert orthogonal.value == pytest.approx(orthogonal.upper) == pytest.approx(3 / math.sqrt(8))
    assert orthogonal.standard_error == pytest.approx(0, abs=1e-9)


def test_draws_follow_the_seed():
    rows = vectors(6)
    gram = rows @ rows.T
    first, again, other = (rademacher_of_gram(gram, 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.value != other.value


def test_the_standard_error_shrinks_with_the_root_of_the_draws():
    rows = vectors(6)
    few, many = (rademacher_of_gram(rows @ rows.T, draws, 0) for draws in (500, 50_000))
    assert few.standard_error / many.standard_error == pytest.approx(10, rel=0.15)


@pytest.mark.parametrize("block", [1, 2, 3, 32])
def test_the_gram_matrix_is_that_of_the_centred_sequences(tmp_path, block):
    generator = torch.Generator().manual_seed(0)
    rows = [2 + torch.randn(n, CHANNELS, generator=generator) for n in LENGTHS]
    store = write_store(tmp_path / "a.parquet", rows)
    moments = means((2.0, 1.9, 2.1, 0.0))
    flat = torch.zeros(len(rows), max(LENGTHS), CHANNELS, dtype=torch.float64)
    for number, row in enumerate(rows):
        flat[number, 1 : len(row)] = (row.double() - moments.mean)[1:]
    flat = flat.flatten(1)
    found = gram_matrix(store, moments, block)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, flat @ flat.T, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, found.T)
    assert torch.equal(gram_matrix(store, moments, block, most=2), found[[0, -1]][:, [0, -1]])


def test_neither_first_tokens_nor_other_sinks_count(tmp_path):
    rows = [torch.ones(n, CHANNELS) for n in LENGTHS]
    rows[4][3] = 0  # where the mean is zero, that is as good as left out
    usual = gram_matrix(write_store(tmp_path / "a.parquet", rows), ZERO)
    rows[4][3] = 300
    for row in rows:
        row[0] = 25_000
    assert torch.equal(gram_matrix(write_store(tmp_path / "b.parquet", rows), ZERO), usual)


def test_the_first_token_of_a_picture_does_by_its_deviation_from_its_own_mean(tmp_path):
    rows = [torch.ones(3, CHANNELS), torch.ones(3, CHANNELS)]
    for row in rows:
        row[0] = 8
    store = write_store(tmp_path / "a.parquet", rows, patch=1)
    found = gram_matrix(store, means((0.0,) * CHANNELS, (7.0,) * CHANNELS))
    assert (found == 3 * CHANNELS).all()
