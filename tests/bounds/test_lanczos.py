import pytest
import torch

from small_world import gaussian_covariance
from splitcodec.bounds import covariance
from splitcodec.bounds.covariance import covariance_bound
from splitcodec.bounds.lanczos import log_determinant


@pytest.mark.parametrize("decay", [1.0, 0.95, 0.7])
def test_it_is_the_log_determinant_within_its_error(decay):
    matrix = 50 * gaussian_covariance(60, seed=2, decay=decay) + torch.eye(60).double() / 12
    found = log_determinant(lambda x: matrix @ x, 60, probes=64, steps=60)
    assert found.value == pytest.approx(
        float(torch.logdet(matrix)), abs=4 * found.standard_error + 1e-6
    )
    assert found.standard_error < 3


def test_covariances_too_large_to_factor_are_bounded_by_it(monkeypatch):
    matrix = 50 * gaussian_covariance(60, seed=2, decay=0.95)
    exact = covariance_bound(matrix, 10_000)
    monkeypatch.setattr(covariance, "FACTORED", 59)
    found = covariance_bound(matrix, 10_000)
    assert found.standard_error > exact.standard_error
    assert found.bits_per_token == pytest.approx(exact.bits_per_token, abs=4 * found.standard_error)
    assert found.bits_per_token != exact.bits_per_token


def test_a_diagonal_matrix_is_exact_for_every_probe():
    diagonal = torch.tensor([0.5, 0.5, 2.0, 8.0, 8.0]).double()
    found = log_determinant(lambda x: diagonal[:, None] * x, 5, probes=7, steps=5)
    assert found.value == pytest.approx(float(diagonal.log().sum()), abs=1e-9)
    assert found.standard_error < 1e-9


def test_few_steps_suffice_for_a_well_conditioned_matrix():
    matrix = gaussian_covariance(400, decay=0.999) + torch.eye(400).double()
    few, many = (log_determinant(lambda x: matrix @ x, 400, 8, steps) for steps in (12, 60))
    assert few.value == pytest.approx(many.value, rel=1e-6)


def test_the_error_covers_the_truth():
    matrix = 50 * gaussian_covariance(40, seed=5, decay=0.8) + torch.eye(40).double() / 12
    truth = float(torch.logdet(matrix))
    found = [log_determinant(lambda x: matrix @ x, 40, 16, 40, seed) for seed in range(40)]
    inside = sum(abs(f.value - truth) < 2 * f.standard_error for f in found)
    assert inside >= 33
