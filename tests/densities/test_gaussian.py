import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from compressai_oracle import entropy_models
from splitcodec.densities import gaussian

SCALES = [0.11, 0.3, 1.0, 7.3, 64.0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", [0.0, 0.3, -0.5])
def test_likelihoods_sum_to_one(scale, offset):
    support = torch.arange(-800, 801, dtype=torch.float64) + offset
    total = gaussian.likelihood(support, torch.tensor(scale, dtype=torch.float64)).sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_likelihood_is_the_mass_of_the_bin():
    generator = np.random.default_rng(0)
    residuals = generator.normal(0, 20, 1000)
    scales = np.exp(generator.uniform(math.log(0.11), math.log(64), 1000))
    found = gaussian.likelihood(torch.from_numpy(residuals), torch.from_numpy(scales))
    away = np.abs(residuals)
    expected = norm.cdf(0.5 - away, scale=scales) - norm.cdf(-0.5 - away, scale=scales)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-15)


def test_likelihood_is_that_of_compressai():
    oracle = entropy_models().GaussianConditional(None, scale_bound=0.11).eval()
    generator = torch.Generator().manual_seed(0)
    residuals = (10 * torch.randn(4, 50, generator=generator)).round()
    scales = torch.empty(4, 50).uniform_(0.11, 40, generator=generator)
    _, expected = oracle(residuals, scales)
    found = gaussian.likelihood(residuals, scales)
    # theirs is never below 1e-9
    torch.testing.assert_close(found.clamp_min(1e-9), expected, rtol=1e-4, atol=1e-7)


def test_gradients_of_the_rate_are_right():
    generator = torch.Generator().manual_seed(0)
    residuals = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    scales = torch.empty(40, dtype=torch.float64).uniform_(0.8, 5, generator=generator)
    inputs = (residuals.requires_grad_(), scales.requires_grad_())
    assert torch.autograd.gradcheck(gaussian.bits, inputs, eps=1e-6, atol=1e-6)


def test_bits_are_bounded_where_the_coder_escapes_and_scales_are_clamped():
    scales = torch.tensor([1e-6, 0.11, 64.0, 1e6])
    bits = gaussian.bits(torch.tensor([0.0, 0.0, 3.0, 3.0]), scales)
    assert bits[0] == bits[1]
    assert bits[2] == bits[3]
    assert gaussian.bits(torch.tensor(1e9), torch.tensor(1.0)).item() == pytest.approx(24)


def test_each_scale_finds_the_nearest_table():
    table = gaussian.table_scales()
    assert table[0].item() == pytest.approx(0.11)
    assert table[-1].item() == pytest.approx(64)
    assert torch.equal(gaussian.scale_indexes(table), torch.arange(64, dtype=torch.int32))
    scales = torch.logspace(-3, 3, 999, dtype=torch.float64)
    nearest = (scales.log()[:, None] - table.log()).abs().argmin(1)
    assert torch.equal(gaussian.scale_indexes(scales).long(), nearest)


def test_tables_are_strictly_increasing_from_zero_to_two_to_the_sixteen():
    tables = gaussian.tables()
    assert len(tables.sizes) == 64
    for cumulative, size in zip(tables.cumulative, tables.sizes, strict=True):
        assert cumulative[0] == 0
        assert cumulative[size - 1] == 1 << 16
        assert (cumulative[:size].diff() >= 1).all()
        assert (cumulative[size:] == 1 << 16).all()


def test_tables_are_the_likelihoods_they_stand_for():
    tables = gaussian.tables()
    for number in (0, 20, 40, 63):
        size, lowest = int(tables.sizes[number]), int(tables.lowest[number])
        frequencies = tables.cumulative[number][:size].diff()[:-1].double() / (1 << 16)
        support = torch.arange(lowest, lowest + size - 2, dtype=torch.float64)
        exact = gaussian.likelihood(support, gaussian.table_scales()[number])
        assert lowest == -support[-1]
        overhead = (exact * (exact / frequencies).log2()).nansum()
        assert 0 <= overhead < 0.02


def test_table_bits_are_the_rates_of_the_search():
    bits = gaussian.table_bits(5)
    assert bits.shape == (64, 11)
    scale = gaussian.table_scales()[30]
    expected = -torch.log2(gaussian.likelihood(torch.tensor(2.0).double(), scale))
    assert bits[30, 7].item() == pytest.approx(expected.item())
