"""Gaussian upper bound on the entropy of a representation on the integer grid, from its covariance.

Among vectors of a given covariance the Gaussian has the largest entropy. Rounding with a shared
dither U, uniform on the unit cube, costs h(Y + U) bits (Zamir and Feder 1992), so for covariance Σ

    H ≤ ½ log₂ det(2πe (Σ + I/12))   bits

(Cover and Thomas 2006, theorem 8.6.5 and problem 8.7; the covariance bound of de Andrade et al.
2026). Given what is known beforehand, Σ is that of the best linear prediction's residual. Below a
step per deviation of about 0.3 the I/12 makes it loose: no channel counts less than ¼ bit.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import digamma
from torch import Tensor

from splitcodec.activations.moments import Moments

NOISE = 1 / 12
"""Variance of rounding to integers."""


@dataclass(frozen=True)
class CovarianceBound:
    """Bits a token, and the standard error from a finite sample."""

    bits_per_token: float
    standard_error: float


def covariance_bound(covariance: Tensor, tokens: int, regressors: int = 0) -> CovarianceBound:
    """The bound for rounded vectors whose sample covariance (d, d) comes from `tokens` samples.

    The determinant of a sample covariance is too small on average. Correction and standard error
    are Cai, Liang and Zhou's (2015, theorem 1) for as many dimensions as stand out of the rounding,
    which is known and needs none: Σ λ / (λ + 1/12) over the eigenvalues λ, and Σ of its squares in
    the error. `regressors` is how many values predicted each vector, when `covariance` is of
    residuals: each takes a degree of freedom. With tokens ≤ d + regressors a sample covariance is
    singular and the result is infinite; see `shrunk_bound`.
    """
    free = tokens - regressors
    if free <= len(covariance):
        return CovarianceBound(math.inf, math.inf)
    noisy, shares = _above_rounding(covariance)
    nats = float((2 * math.pi * math.e * noisy).log().sum())
    degrees = torch.arange(free - round(float(shares.sum())), free, dtype=torch.float64)
    bias = float((digamma(degrees.numpy() / 2) - math.log(tokens / 2)).sum())
    variance = -2 * math.log1p(-float(shares.square().sum()) / free)
    bits = 0.5 / math.log(2)
    return CovarianceBound(bits * (nats - bias), bits * math.sqrt(variance))


def _above_rounding(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues with the variance of rounding, and the share in them that is not rounding."""
    values = torch.linalg.eigvalsh(covariance.double()).clamp_min(0)
    return values + NOISE, values / (values + NOISE)


def shrunk_bound(
    spectrum: Tensor, dimensions: int, samples: int, tokens: float = 1
) -> CovarianceBound:
    """The bound from a sample covariance shrunk towards a multiple of I, where samples are few.

    spectrum (k,): eigenvalues of the sample covariance, of which the other `dimensions` - k are
    zero: those of the Gram matrix divided by the samples are enough. Shrinkage is oracle
    approximating (Chen, Wiesel, Eldar and Hero 2010, eq. 23). A sample holds `tokens` tokens on
    average. The error is that of the delta method for Gaussian data, given the shrinkage.
    """
    values = spectrum.double().clamp_min(0)
    trace, energy, missing = values.sum(), values.square().sum(), dimensions - len(values)
    isotropic = trace.square() / dimensions
    spread = (samples + 1 - 2 / dimensions) * (energy - isotropic)
    share = min(1.0, float(((1 - 2 / dimensions) * energy + trace.square()) / spread))
    floor = share * trace / dimensions + NOISE
    shrunk = (1 - share) * values + floor
    log_determinant = float(shrunk.log().sum() + missing * floor.log())
    nats = 0.5 * (dimensions * math.log(2 * math.pi * math.e) + log_determinant)
    variance = 2 / samples * float(((1 - share) * values / shrunk).square().sum())
    bits = tokens * math.log(2)
    return CovarianceBound(nats / bits, 0.5 * math.sqrt(variance) / bits)


def token_bound(moments: Moments) -> CovarianceBound:
    """The bound for each token by itself; shrunk where there are fewer tokens than channels."""
    bound = covariance_bound(moments.covariance, moments.tokens)
    if math.isfinite(bound.bits_per_token):
        return bound
    spectrum = torch.linalg.eigvalsh(moments.covariance)
    return shrunk_bound(spectrum, len(spectrum), moments.tokens)


def bound_given_previous(moments: Moments) -> CovarianceBound:
    """The bound for a token whose predecessor is decoded: conditional entropy, which is less.

    `moments` with the context of history. The token before is known up to its own rounding.
    """
    context, channels = moments.context, len(moments.mean)
    known = context.covariance[:channels, :channels]
    regressors = round(float(_above_rounding(known)[1].sum()))
    known = known + NOISE * torch.eye(channels, dtype=torch.float64)
    cross = context.cross[:, :channels]
    residual = moments.covariance - cross @ torch.linalg.solve(known, cross.T)
    return covariance_bound(residual, moments.tokens, regressors)


def latent_covariance(covariance: Tensor, analysis: Tensor) -> Tensor:
    """Covariance of u = A (y − μ) from that of y (channels, channels), A (kept, channels)."""
    matrix = analysis.detach().cpu().double()
    return matrix @ covariance @ matrix.T
