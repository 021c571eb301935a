import math

import pytest
import torch

from small_world import gaussian_covariance, write_store
from splitcodec.activations.moments import moments_of
from splitcodec.bounds.covariance import (
    bound_given_previous,
    covariance_bound,
    shrunk_bound,
    token_bound,
)

CHANNELS = 24


def exact(covariance):
    values = torch.linalg.eigvalsh(covariance) + 1 / 12
    return 0.5 * float((2 * math.pi * math.e * values).log2().sum())


def draws(covariance, samples, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(covariance)
    return torch.randn(samples, len(covariance), generator=generator).double() @ root.T


def test_the_gram_matrix_gives_the_covariances_bound():
    rows = draws(9 * gaussian_covariance(CHANNELS, decay=0.9), 10, 0)
    full = shrunk_bound(torch.linalg.eigvalsh(rows.T @ rows / 10), CHANNELS, 10, 3)
    short = shrunk_bound(torch.linalg.eigvalsh(rows @ rows.T / 10), CHANNELS, 10, 3)
    assert short.bits_per_token == pytest.approx(full.bits_per_token, rel=1e-9)
    assert short.standard_error == pytest.approx(full.standard_error, rel=1e-9)


@pytest.mark.parametrize("samples", [8, 12, 20])
def test_shrinkage_is_right_for_white_data_and_errs_upwards_otherwise(samples):
    for covariance in (4 * torch.eye(CHANNELS).double(), 9 * gaussian_covariance(CHANNELS)):
        found = []
        for seed in range(60):
            rows = draws(covariance, samples, seed)
            spectrum = torch.linalg.eigvalsh(rows @ rows.T / samples)
            found.append(shrunk_bound(spectrum, CHANNELS, samples).bits_per_token)
        mean = sum(found) / len(found)
        if covariance[0, 1] == 0:
            assert mean == pytest.approx(exact(covariance), rel=0.02)
        else:
            assert mean > exact(covariance)


def test_many_samples_need_no_shrinkage_and_the_error_is_that_of_the_sample():
    covariance, samples = 9 * gaussian_covariance(CHANNELS, decay=0.9), 2000
    found = []
    for seed in range(200):
        rows = draws(covariance, samples, seed)
        spectrum = torch.linalg.eigvalsh(rows.T @ rows / samples)
        found.append(shrunk_bound(spectrum, CHANNELS, samples))
    values = torch.tensor([bound.bits_per_token for bound in found])
    assert float(values.mean()) == pytest.approx(exact(covariance), abs=0.5)
    assert float(values.std()) == pytest.approx(found[0].standard_error, rel=0.2)


def autoregression(path, memory, sequences=60, tokens=120, channels=4):
    """Channels of stationary variance 25 that forget by `memory` a token."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(sequences):
        state = 5 * torch.randn(channels, generator=generator)
        kept = []
        for _ in range(tokens):
            kept.append(state)
            fresh = torch.randn(channels, generator=generator)
            state = memory * state + 5 * math.sqrt(1 - memory**2) * fresh
        rows.append(torch.stack(kept))
    return write_store(path, rows)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_the_token_before_saves_what_it_tells(tmp_path, memory):
    moments = moments_of(autoregression(tmp_path / "a.parquet", memory), history=True)
    alone, given = token_bound(moments), bound_given_previous(moments)
    noisy = 25 + 1 / 12
    # what a rounded predecessor leaves open of the next one, and its own rounding
    left = 25 - (25 * memory) ** 2 / noisy + 1 / 12
    saved = 4 * 0.5 * math.log2(noisy / left)
    # the second token of a sequence is not predicted, which costs 0.1 bit here
    errors = 0.15 + 5 * math.hypot(alone.standard_error, given.standard_error)
    assert alone.bits_per_token - given.bits_per_token == pytest.approx(saved, abs=errors)


def test_a_token_before_below_the_rounding_fits_nothing(tmp_path):
    torch.manual_seed(0)
    variances = torch.logspace(2, -4, 64).double()
    rows = [torch.randn(11, 64) * variances.sqrt() for _ in range(40)]
    moments = moments_of(write_store(tmp_path / "a.parquet", rows), history=True)
    given = bound_given_previous(moments)
    assert given.bits_per_token == pytest.approx(
        exact(variances.diag()), abs=1 + 3 * given.standard_error
    )


def test_of_pictures_the_tokens_without_a_context_are_not_predicted(tmp_path):
    torch.manual_seed(0)
    rows = [30 * torch.tensor([0.0, 1, 1])[:, None] * torch.randn(1, 4) for _ in range(2000)]
    store = write_store(tmp_path / "a.parquet", rows, patch=1)
    given = bound_given_previous(moments_of(store, history=True))
    # Of three tokens one is constant, one comes after it, and one is the same as the one before.
    left = exact(300 * torch.eye(4).double())
    assert given.bits_per_token == pytest.approx(left, abs=4 * given.standard_error)


def test_residuals_of_few_tokens_are_corrected_for_what_was_fitted():
    values = []
    tokens, regressors, channels = 60, 10, 6
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        known = torch.randn(tokens, regressors + 1, generator=generator).double()
        known[:, 0] = 1  # the mean is fitted too
        target = 30 * torch.randn(tokens, channels, generator=generator).double()
        residual = target - known @ torch.linalg.lstsq(known, target).solution
        covariance = residual.T @ residual / tokens
        values.append(covariance_bound(covariance, tokens, regressors).bits_per_token)
    error = covariance_bound(covariance, tokens, regressors).standard_error
    truth = exact(900 * torch.eye(channels).double())
    assert sum(values) / 300 == pytest.approx(truth, abs=4 * error / math.sqrt(300))
