"""Codecs fitted to a known Gaussian representation, without a model and without training."""

import torch

from small_world import gaussian_covariance
from splitcodec.activations.moments import Moments
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters, KltHyperparameters
from splitcodec.codecs.hyperprior import Hyperprior
from splitcodec.codecs.klt import Klt, fit_klt

CHANNELS = 24
COVARIANCE = 4 * gaussian_covariance(CHANNELS, seed=1, decay=0.8)
SENSITIVITY = gaussian_covariance(CHANNELS, seed=2, decay=0.7)
MEAN = torch.linspace(-3, 3, CHANNELS, dtype=torch.float64)
FIRST_MEAN = MEAN + 1_000
RATE_WEIGHT = 0.003


def representations(batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """(batch, tokens, channels) float32; the first token is constant, as after a start token."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(batch, tokens, CHANNELS, generator=generator, dtype=torch.float64)
    values = white @ torch.linalg.cholesky(COVARIANCE).T + MEAN
    values[:, 0] = FIRST_MEAN
    return values.float()


def fitted_klt(rate_weight: float = RATE_WEIGHT) -> Klt:
    moments = Moments(MEAN, FIRST_MEAN, COVARIANCE, tokens=4096, sinks=0)
    sample = representations(1, 4097)[0, 1:]
    return fit_klt(KltHyperparameters(), moments, SENSITIVITY, sample, rate_weight).eval()


def fitted_hyperprior(seed: int = 0) -> Hyperprior:
    """Started from the KLT, with networks that say something, though nothing learnt."""
    torch.manual_seed(seed)
    small = HyperpriorHyperparameters(side_channels=5, width=16, heads=2)
    klt = fitted_klt()
    codec = Hyperprior("hyperprior", CHANNELS, small, klt.kept)
    codec.start_from(klt)
    with torch.no_grad():
        for parameter in codec.side_synthesis[-1].parameters():
            parameter.normal_(0, 0.05)
        codec.side_analysis[-1].weight.mul_(4)
    codec.update()
    return codec.eval()


def divergence_of(error: torch.Tensor) -> float:
    """Mean ½ eᵀ G e over the last dimension, nats."""
    error = error.double()
    return 0.5 * ((error @ SENSITIVITY) * error).sum(-1).mean().item()
