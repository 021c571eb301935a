import math

import numpy as np
import pytest
import torch

from small_world import gaussian_covariance
from splitcodec.bounds.covariance import covariance_bound, latent_covariance

CHANNELS = 6
COVARIANCE = 20 * gaussian_covariance(CHANNELS, seed=3, decay=0.8)


def sample_covariance(tokens, seed):
    generator = np.random.default_rng(seed)
    drawn = generator.multivariate_normal(np.zeros(CHANNELS), COVARIANCE.numpy(), tokens)
    return torch.from_numpy(np.cov(drawn.T, bias=True))


def exact(covariance):
    """½ log₂ det(2πe (Σ + I/12)) for a known covariance."""
    values = np.linalg.eigvalsh(covariance.numpy()) + 1 / 12
    return 0.5 * np.log2(2 * np.pi * np.e * values).sum()


def test_with_many_tokens_it_is_the_closed_form():
    bound = covariance_bound(COVARIANCE, 10**9)
    assert bound.bits_per_token == pytest.approx(exact(COVARIANCE), abs=1e-6)
    assert bound.standard_error < 1e-3


def test_one_channel_is_the_textbook_formula():
    bound = covariance_bound(torch.tensor([[4.0]]), 10**9)
    expected = 0.5 * math.log2(2 * math.pi * math.e * (4 + 1 / 12))
    assert bound.bits_per_token == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tokens", [12, 40, 200])
def test_the_estimate_from_few_tokens_is_unbiased_with_the_stated_error(tokens):
    bounds = [covariance_bound(sample_covariance(tokens, seed), tokens) for seed in range(300)]
    values = np.array([bound.bits_per_token for bound in bounds])
    error = bounds[0].standard_error
    assert values.mean() == pytest.approx(exact(COVARIANCE), abs=4 * error / math.sqrt(300) + 0.02)
    assert values.std() == pytest.approx(error, rel=0.2)


@pytest.mark.parametrize("tokens", [100, 400])
def test_what_rounding_hides_needs_no_correction(tokens):
    variances, generator, found = np.logspace(2, -4, 64), np.random.default_rng(0), []
    for _ in range(40):
        drawn = generator.normal(size=(tokens, 64)) * np.sqrt(variances)
        found.append(covariance_bound(torch.from_numpy(np.cov(drawn.T, bias=True)), tokens))
    values = np.array([bound.bits_per_token for bound in found])
    # As of 64 dimensions the correction would leave it 16.3 and 3.1 bits too large.
    assert values.mean() == pytest.approx(exact(torch.from_numpy(variances).diag()), abs=0.4)
    assert found[0].standard_error == pytest.approx(values.std(), rel=0.35)


def test_it_lies_above_the_entropy_of_rounded_gaussians():
    generator = np.random.default_rng(0)
    for deviation in (0.05, 0.2, 0.5, 1.0, 4.0):
        symbols = np.round(generator.normal(0.3, deviation, 200_000))
        _, counts = np.unique(symbols, return_counts=True)
        shares = counts / counts.sum()
        entropy = -(shares * np.log2(shares)).sum()
        covariance = torch.tensor([[symbols.var()]])
        bound = covariance_bound(covariance, len(symbols)).bits_per_token
        assert bound > entropy
        if deviation >= 1:
            # the Gaussian is the worst case: with small steps the bound is nearly reached
            assert bound - entropy < 0.15


def test_it_grows_with_the_covariance():
    bounds = [covariance_bound(scale * COVARIANCE, 1000).bits_per_token for scale in (1, 4, 16)]
    # two bits of variance are one bit of amplitude, in each channel
    assert bounds[1] - bounds[0] == pytest.approx(CHANNELS, rel=0.1)
    assert bounds[2] - bounds[1] == pytest.approx(CHANNELS, rel=0.05)


@pytest.mark.parametrize("tokens", [2, 6])
def test_too_few_tokens_give_no_bound(tokens):
    bound = covariance_bound(COVARIANCE, tokens)
    assert math.isinf(bound.bits_per_token)
    assert math.isinf(bound.standard_error)


def test_no_channels_cost_nothing():
    assert covariance_bound(torch.zeros(0, 0), 10).bits_per_token == 0


def test_the_latents_covariance():
    generator = torch.Generator().manual_seed(0)
    analysis = torch.randn(3, CHANNELS, generator=generator, dtype=torch.float64)
    chol = torch.linalg.cholesky(COVARIANCE)
    found = latent_covariance(COVARIANCE, analysis.float().requires_grad_())
    product = analysis @ chol
    torch.testing.assert_close(found, product @ product.T, rtol=1e-5, atol=1e-5)
