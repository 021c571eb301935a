import math

import numpy as np
import pytest
import torch

from splitcodec.bounds.rate_distortion import (
    gaussian_rate,
    independent_entropies,
    quantiser_rate,
    shannon_lower_bound,
)

VARIANCES = torch.tensor([9.0, 4.0, 1.0, 0.25]).double()


def test_one_gaussian_has_the_textbook_rate():
    point = gaussian_rate(torch.tensor([4.0]), 0.5 * 0.25)
    assert point.bits_per_token == pytest.approx(0.5 * math.log2(4 / 0.25))


def test_water_reaches_every_channel_at_once():
    point = gaussian_rate(VARIANCES, 0.5 * (0.5 + 0.5 + 0.5 + 0.25))
    assert point.errors.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.25])
    expected = 0.5 * sum(math.log2(v / 0.5) for v in (9, 4, 1))
    assert point.bits_per_token == pytest.approx(expected)


def test_all_distortion_costs_nothing_and_none_is_refused():
    assert gaussian_rate(VARIANCES, 100.0).bits_per_token == 0
    with pytest.raises(ValueError, match="positive"):
        gaussian_rate(VARIANCES, 0.0)


def test_the_shannon_lower_bound_is_tight_for_gaussians_at_high_rate():
    entropies = 0.5 * (2 * math.pi * math.e * VARIANCES).log()
    for distortion in (0.01, 0.1):
        rate = gaussian_rate(VARIANCES, distortion).bits_per_token
        assert shannon_lower_bound(entropies, distortion) == pytest.approx(rate)
    assert shannon_lower_bound(entropies, 5.0) < gaussian_rate(VARIANCES, 5.0).bits_per_token


def test_channels_that_tell_nothing_leave_the_bound_of_the_others():
    entropies = 0.5 * (2 * math.pi * math.e * VARIANCES).log()
    others = torch.tensor([-math.inf, -20.0]).double()
    for distortion in (0.01, 0.1):
        alone = shannon_lower_bound(entropies, distortion)
        assert shannon_lower_bound(torch.cat([others, entropies]), distortion) == alone > 0
    assert shannon_lower_bound(others[:1], 0.1) == 0


@pytest.mark.filterwarnings("error")
def test_constant_channels_and_few_samples_have_no_entropy():
    latents = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    usual, error = independent_entropies(latents)
    found, same = independent_entropies(torch.cat([latents, torch.ones(100, 1)], 1))
    assert found.tolist() == [*usual.tolist(), -math.inf]
    assert same == error
    for samples in range(1, 5):
        found, error = independent_entropies(latents[:samples])
        assert (found.tolist(), error) == ([-math.inf] * 3, math.inf)
    assert independent_entropies(latents[:5])[0].isfinite().all()
    assert independent_entropies(torch.ones(100, 2))[1] == 0


@pytest.mark.parametrize("samples", [500, 5000])
def test_entropy_from_spacings(samples):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(samples, 4, generator=generator).double() * VARIANCES.sqrt()
    truth = 0.5 * float((2 * math.pi * math.e * VARIANCES).log().sum())
    found, error = independent_entropies(normal)
    assert -0.4 - 4 * error < float(found.sum()) - truth < 4 * error  # its bias is downwards
    uniform = torch.rand(samples, 4, generator=generator) * 3
    found, _ = independent_entropies(uniform)
    assert float(found.sum()) == pytest.approx(4 * math.log(3), abs=0.15)


def test_the_error_of_entropy_is_that_of_repetition():
    generator = torch.Generator().manual_seed(0)
    draws = [independent_entropies(torch.randn(1000, 16, generator=generator)) for _ in range(60)]
    found, errors = zip(*draws, strict=True)
    spread = np.std([float(entropies.sum()) for entropies in found])
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)


def test_entropy_errs_downwards_by_some_hundredths_of_a_nat_a_channel():
    generator = torch.Generator().manual_seed(0)
    found, _ = independent_entropies(torch.randn(8192, 200, generator=generator))
    truth = 0.5 * math.log(2 * math.pi * math.e)
    assert float(found.mean()) - truth == pytest.approx(-0.04, abs=0.01)


@pytest.mark.parametrize("rate_weight", [1e-4, 1e-2, 1.0, 10.0])
def test_a_quantiser_pays_at_most_a_quarter_bit_a_channel(rate_weight):
    point = quantiser_rate(VARIANCES, rate_weight)
    best = gaussian_rate(VARIANCES, point.distortion).bits_per_token
    assert best <= point.bits_per_token + 1e-2
    assert point.bits_per_token <= best + 4 * 0.256
    if rate_weight == 1e-4:
        assert point.bits_per_token == pytest.approx(best + 4 * 0.2546, abs=0.02)


def test_quantiser_rates_are_those_of_quantised_samples():
    generator = np.random.default_rng(0)
    for variance, rate_weight in ((9.0, 0.05), (1.0, 0.1), (1.0, 0.4)):
        draws = generator.normal(0, math.sqrt(variance), 200_000)
        costs = []
        for step in np.linspace(0.2, 6, 59):
            symbols = np.round(draws / step)
            _, counts = np.unique(symbols, return_counts=True)
            shares = counts / counts.sum()
            bits = -(shares * np.log2(shares)).sum()
            gain = (draws * symbols).mean() / max((symbols**2).mean(), 1e-12)
            error = ((draws - gain * symbols) ** 2).mean()
            costs.append((0.5 * error + rate_weight * bits, bits, gain / step))
        cost, bits, multiple = min(costs)
        point = quantiser_rate(torch.tensor([variance]), rate_weight)
        assert point.distortion + rate_weight * point.bits_per_token == pytest.approx(
            cost, rel=0.01
        )
        assert point.bits_per_token == pytest.approx(bits, abs=0.06)
        assert point.multiples.item() == pytest.approx(multiple, abs=0.02)


def test_channels_below_the_water_cost_nothing():
    point = quantiser_rate(torch.tensor([1e-6, 1e-9]), 1.0)
    assert point.bits_per_token == pytest.approx(0, abs=1e-12)
    assert point.errors.tolist() == pytest.approx([1e-6, 1e-9])
