"""Gaussian upper bound on the entropy of an integer-valued vector, from its covariance.

Among vectors of a given covariance the Gaussian has the largest entropy; with a uniform variable
added to make integers continuous, an integer vector X of covariance Σ has

    H(X) ≤ ½ log₂ det(2πe (Σ + I/12))   bits

(Cover and Thomas 2006, theorem 8.6.5 and problem 8.7; the covariance bound of de Andrade et al.
2026). Below a step per deviation of about 0.3 the I/12 makes it loose: no channel counts less than
¼ bit.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import digamma
from torch import Tensor


@dataclass(frozen=True)
class CovarianceBound:
    """Bits a token, and the standard error from a finite sample."""

    bits_per_token: float
    standard_error: float


def covariance_bound(covariance: Tensor, tokens: int) -> CovarianceBound:
    """The bound for rounded vectors whose sample covariance (d, d) comes from `tokens` samples.

    The determinant of a sample covariance is too small on average; the correction and the
    standard error are those of Cai, Liang and Zhou (2015, theorem 1), exact for Gaussian data.
    With tokens ≤ d there is no bound and the result is infinite.
    """
    dimensions = len(covariance)
    if tokens <= dimensions:
        return CovarianceBound(math.inf, math.inf)
    noisy = covariance.double() + torch.eye(dimensions, dtype=torch.float64) / 12
    nats = dimensions * math.log(2 * math.pi * math.e) + float(torch.logdet(noisy))
    degrees = torch.arange(tokens - dimensions, tokens, dtype=torch.float64)
    bias = float((digamma(degrees.numpy() / 2) - math.log(tokens / 2)).sum())
    variance = -2 * math.log1p(-dimensions / tokens)
    return CovarianceBound(
        0.5 * (nats - bias) / math.log(2), 0.5 * math.sqrt(variance) / math.log(2)
    )


def latent_covariance(covariance: Tensor, analysis: Tensor) -> Tensor:
    """Covariance of u = A (y − μ) from that of y (channels, channels), A (kept, channels)."""
    matrix = analysis.detach().cpu().double()
    return matrix @ covariance @ matrix.T
