import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressai_oracle import entropy_models
from splitcodec.coding.entropy import decode, encode
from splitcodec.densities.location_scale import (
    FAMILIES,
    Gaussian,
    GaussianMixture,
    scale_indexes,
    table_scales,
)

SCALES = [0.11, 0.3, 1.0, 7.3, 64.0]
REFERENCES = {
    "gaussian": scipy.stats.norm(),
    "laplace": scipy.stats.laplace(scale=1 / math.sqrt(2)),
    "logistic": scipy.stats.logistic(scale=math.sqrt(3) / math.pi),
}


def shaped(name):
    """A family; the mixture away from its start."""
    family = FAMILIES[name]()
    if name == "mixture":
        family.weight_logits.data.copy_(torch.tensor([0.5, 1.0, -1.5]))
        family.log_ratios.data.copy_(torch.tensor([-1.0, 0.1, 1.2]))
    return family.requires_grad_(False)


@pytest.fixture(params=FAMILIES)
def family(request):
    return shaped(request.param)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", [0.0, 0.3, -0.5])
def test_likelihoods_sum_to_one(family, scale, offset):
    support = torch.arange(-2500, 2501, dtype=torch.float64) + offset
    total = family.likelihood(support, torch.tensor(scale, dtype=torch.float64)).sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_scales_are_standard_deviations(family):
    support = torch.arange(-2500, 2501, dtype=torch.float64)
    mass = family.likelihood(support, torch.tensor(20.0, dtype=torch.float64))
    # rounding adds a twelfth
    assert (mass * support**2).sum().item() == pytest.approx(400 + 1 / 12, rel=1e-6)


@pytest.mark.parametrize("name", REFERENCES)
def test_likelihood_is_the_mass_of_the_bin_far_into_the_tail(name):
    generator = np.random.default_rng(0)
    residuals = generator.normal(0, 20, 1000)
    scales = np.exp(generator.uniform(math.log(0.11), math.log(64), 1000))
    found = FAMILIES[name]().likelihood(torch.from_numpy(residuals), torch.from_numpy(scales))
    away, reference = np.abs(residuals), REFERENCES[name]
    expected = reference.sf((away - 0.5) / scales) - reference.sf((away + 0.5) / scales)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-300)


def test_likelihood_is_that_of_compressai():
    oracle = entropy_models().GaussianConditional(None, scale_bound=0.11).eval()
    generator = torch.Generator().manual_seed(0)
    residuals = (10 * torch.randn(4, 50, generator=generator)).round()
    scales = torch.empty(4, 50).uniform_(0.11, 40, generator=generator)
    _, expected = oracle(residuals, scales)
    found = Gaussian().likelihood(residuals, scales)
    # theirs is never below 1e-9
    torch.testing.assert_close(found.clamp_min(1e-9), expected, rtol=1e-4, atol=1e-7)


def test_gradients_of_the_rate_are_right(family):
    generator = torch.Generator().manual_seed(0)
    residuals = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    scales = torch.empty(40, dtype=torch.float64).uniform_(0.8, 5, generator=generator)
    inputs = (residuals.requires_grad_(), scales.requires_grad_())
    assert torch.autograd.gradcheck(family.bits, inputs, eps=1e-6, atol=1e-6)


def test_gradients_of_the_mixtures_shape_are_right():
    mixture = shaped("mixture").double().requires_grad_()
    residuals = torch.linspace(-6, 6, 13, dtype=torch.float64)
    scales = torch.linspace(0.5, 3, 13, dtype=torch.float64)

    def bits(logits, ratios):
        shape = {"weight_logits": logits, "log_ratios": ratios}
        return torch.func.functional_call(mixture, shape, (residuals, scales))

    mixture.forward = mixture.bits
    shape = (mixture.weight_logits, mixture.log_ratios)
    assert torch.autograd.gradcheck(bits, shape, eps=1e-6, atol=1e-6)


def test_the_mixture_learns_the_shape_of_its_data():
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(20_000, generator=generator) < 0.1
    values = torch.randn(20_000, generator=generator) * torch.where(wide, 12.0, 2.0)
    values, scale = values.round(), torch.tensor(values.std().item())
    mixture = GaussianMixture()
    optimiser = torch.optim.Adam(mixture.parameters(), lr=0.05)
    for _ in range(100):
        loss = mixture.bits(values, scale).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _, counts = values.unique(return_counts=True)
    shares = counts / counts.sum()
    entropy = -(shares * shares.log2()).sum()
    assert loss.item() == pytest.approx(entropy.item(), rel=0.01)
    assert Gaussian().bits(values, scale).mean() > 1.05 * loss


def test_bits_are_bounded_where_the_coder_escapes_and_scales_are_clamped(family):
    scales = torch.tensor([1e-6, 0.11, 64.0, 1e6])
    bits = family.bits(torch.tensor([0.0, 0.0, 3.0, 3.0]), scales)
    assert bits[0] == bits[1]
    assert bits[2] == bits[3]
    assert family.bits(torch.tensor(1e9), torch.tensor(1.0)).item() == pytest.approx(24)


def test_each_scale_finds_the_nearest_table():
    table = table_scales()
    assert table[0].item() == pytest.approx(0.11)
    assert table[-1].item() == pytest.approx(64)
    assert torch.equal(scale_indexes(table), torch.arange(64, dtype=torch.int32))
    scales = torch.logspace(-3, 3, 999, dtype=torch.float64)
    nearest = (scales.log()[:, None] - table.log()).abs().argmin(1)
    assert torch.equal(scale_indexes(scales).long(), nearest)


def test_tables_are_strictly_increasing_from_zero_to_two_to_the_sixteen(family):
    tables = family.tables()
    assert len(tables.sizes) == 64
    for cumulative, size in zip(tables.cumulative, tables.sizes, strict=True):
        assert cumulative[0] == 0
        assert cumulative[size - 1] == 1 << 16
        assert (cumulative[:size].diff() >= 1).all()
        assert (cumulative[size:] == 1 << 16).all()


def test_tables_are_the_likelihoods_they_stand_for(family):
    tables = family.tables()
    for number in (0, 20, 40, 63):
        size, lowest = int(tables.sizes[number]), int(tables.lowest[number])
        frequencies = tables.cumulative[number][:size].diff()[:-1].double() / (1 << 16)
        support = torch.arange(lowest, lowest + size - 2, dtype=torch.float64)
        exact = family.likelihood(support, table_scales()[number])
        assert lowest == -support[-1]
        assert 1 - exact.sum() < 2e-4, "too much is left to the escape"
        overhead = (exact * (exact / frequencies).log2()).nansum()
        assert -1e-3 <= overhead < 0.02


@given(st.sampled_from(list(FAMILIES)), st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_all_symbols_come_back_under_the_tables(name, seed, streams):
    generator = torch.Generator().manual_seed(seed)
    indexes = torch.randint(-1, 64, (streams, 60), generator=generator, dtype=torch.int32)
    # heavy tails, so that some symbols escape
    noise = torch.randn(indexes.shape, generator=generator) ** 3
    symbols = (noise * table_scales()[indexes.clamp_min(0).long()]).round().to(torch.int32)
    symbols = torch.where(indexes >= 0, symbols, 0)
    tables = shaped(name).tables()
    assert torch.equal(decode(encode(symbols, indexes, tables), indexes, tables), symbols)


def test_table_bits_are_the_rates_of_the_search():
    bits = Gaussian().table_bits(5)
    assert bits.shape == (64, 11)
    scale = table_scales()[30]
    expected = -torch.log2(Gaussian().likelihood(torch.tensor(2.0).double(), scale))
    assert bits[30, 7].item() == pytest.approx(expected.item())
