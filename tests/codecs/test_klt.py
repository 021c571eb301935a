import pytest
import torch
from codec_samples import (
    CHANNELS,
    COVARIANCE,
    FIRST_MEAN,
    MEAN,
    SENSITIVITY,
    divergence_of,
    fitted_klt,
    representations,
)

from splitcodec.activations.moments import Moments, Sample
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt, whitened_transform
from splitcodec.errors import BitstreamError

RIDGE = 1e-3


def test_the_transform_makes_channels_uncorrelated_in_order_of_variance():
    transform, inverse = whitened_transform(COVARIANCE, SENSITIVITY, RIDGE)
    eye = torch.eye(CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(transform @ inverse, eye)
    latent = transform @ COVARIANCE @ transform.T
    variances = latent.diagonal()
    torch.testing.assert_close(latent, torch.diag(variances), rtol=0, atol=1e-10)
    assert (variances.diff() <= 0).all()


def test_half_the_squared_length_is_the_divergence():
    transform, _ = whitened_transform(COVARIANCE, SENSITIVITY, RIDGE)
    error = representations(1, 50)[0, 1:].double()
    ridge = RIDGE * SENSITIVITY.diagonal().mean() * torch.eye(CHANNELS, dtype=torch.float64)
    expected = 0.5 * ((error @ (SENSITIVITY + ridge)) * error).sum(-1)
    torch.testing.assert_close(0.5 * (error @ transform.T).square().sum(-1), expected)


def test_the_transform_is_repeatable_though_eigenvectors_have_no_sign():
    once, _ = whitened_transform(COVARIANCE, SENSITIVITY, RIDGE)
    again, _ = whitened_transform(COVARIANCE.clone(), SENSITIVITY.clone(), RIDGE)
    assert torch.equal(once, again)


def test_smaller_lambda_gives_more_bits_and_less_divergence():
    representation, lengths = representations(2, 500, seed=9), torch.tensor([500, 500])
    points = []
    for rate_weight in (0.0005, 0.002, 0.01, 0.05):
        codec = fitted_klt(rate_weight)
        with torch.no_grad():
            estimate = codec(representation, lengths)
        error = (estimate.reconstruction - representation)[:, 1:]
        points.append((estimate.bits.mean().item(), divergence_of(error)))
    bits, divergences = zip(*points, strict=True)
    assert list(bits) == sorted(bits, reverse=True)
    assert list(divergences) == sorted(divergences)
    # λ is the slope: between neighbours, nats a bit lie about between their two λ
    for (b0, d0), (b1, d1), low, high in zip(
        points, points[1:], (0.0005, 0.002, 0.01), (0.002, 0.01, 0.05), strict=False
    ):
        assert 0.7 * low < (d1 - d0) / (b0 - b1) < 1.4 * high


def test_what_is_decoded_is_the_quantised_value_itself():
    """And no multiple of it, which would be closer to the original, but along the signal."""
    codec = fitted_klt(0.05)
    representation = representations(1, 400, seed=5)
    with torch.no_grad():
        reconstruction = codec(representation, torch.tensor([400])).reconstruction
        sent = codec.latent(representation[:, 1:] - codec.mean).round()
        found = codec.latent(reconstruction[:, 1:] - codec.mean)
    assert sent.abs().sum() > 400
    torch.testing.assert_close(found, sent, rtol=1e-4, atol=1e-3)


def test_whitening_by_the_sensitivity_beats_plain_mean_square_error():
    """The same rate spent without knowing the sensitivity costs more divergence."""
    representation, lengths = representations(2, 500, seed=9), torch.tensor([500, 500])
    plain = SENSITIVITY.diagonal().mean() * torch.eye(CHANNELS, dtype=torch.float64)
    moments = Moments(MEAN, FIRST_MEAN, COVARIANCE, tokens=4096, sinks=0)
    sample = Sample(representations(1, 4097)[0, 1:])
    costs = []
    for sensitivity in (SENSITIVITY, plain):
        codec = fit_klt(KltHyperparameters(), moments, sensitivity, sample, 0.005)
        estimate = codec(representation, lengths)
        error = (estimate.reconstruction - representation)[:, 1:]
        costs.append(divergence_of(error) + 0.005 * estimate.bits.mean().item())
    assert costs[0] < 0.9 * costs[1]


def test_with_an_enormous_lambda_nothing_is_coded_and_the_mean_comes_back(data):
    codec = fitted_klt(1e6)
    assert codec.kept == 0
    streams = codec.compress(*data)
    assert {len(stream) for stream in streams} == {8}
    decoded = codec.decompress(streams, data[1])
    torch.testing.assert_close(decoded[0, 0], FIRST_MEAN.float())
    torch.testing.assert_close(decoded[0, 5], MEAN.float())


def test_other_tables_are_noticed_by_the_checksum(klt, data):
    streams = klt.compress(*data)
    other = fitted_klt()
    other.scale_index[0] += 3
    with pytest.raises(BitstreamError, match="decoded to other symbols"):
        other.decompress(streams, data[1])


def test_fitting_is_repeatable():
    once, again = fitted_klt(), fitted_klt()
    for name, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
