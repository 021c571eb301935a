"""Rate–distortion functions in the metric of the model's sensitivity, and of real quantisers.

Distortion is D = ½ E[eᵀ G e] nats of divergence a token, to second order. In the coordinates
z = T (y − μ) of the closed-form codec that is ½ E‖z − ẑ‖², and Cov z is diagonal with variances ν.

- Gaussian R(D), reverse water-filling (Cover and Thomas 2006, theorem 10.3.3). A source that is no
  Gaussian but has this covariance needs no more (problem 10.8).
- Shannon lower bound: R(D) ≥ h(z) − (k/2) ln(2πe · 2D/k), for continuous tokens coded one by one; z
  may be any k of the channels, as all of them at D are no cheaper.
- What an entropy-coded uniform scalar quantiser makes of a Gaussian channel, ν known and λ given:
  at best 0 and at worst ½ log₂(2πe/12) = 0.254 bit above R(D) a channel.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import differential_entropy
from torch import Tensor

from splitcodec.densities.location_scale import Gaussian

NATS_PER_BIT = math.log(2)
_FEWEST = 5
"""Samples of which spacings tell an entropy."""


@dataclass(frozen=True)
class OperatingPoint:
    """Bits a token and nats of distortion a token; `errors` (channels,): E (z − ẑ)² of each.

    Of quantisers ẑ is the best multiple of the quantised value; `multiples` (channels,) says which.
    """

    bits_per_token: float
    distortion: float
    errors: Tensor
    multiples: Tensor | None = None


def gaussian_rate(variances: Tensor, distortion: float) -> OperatingPoint:
    """R(D) of independent Gaussians (channels,) at D = ½ Σ errors, by reverse water-filling."""
    values = variances.double().clamp_min(0)
    if distortion <= 0:
        raise ValueError("distortion must be positive: the rate of a continuous source has no end")
    if 2 * distortion >= float(values.sum()):
        return OperatingPoint(0.0, 0.5 * float(values.sum()), values)

    def excess(level: float) -> float:
        return float(values.clamp_max(level).sum()) - 2 * distortion

    errors = values.clamp_max(brentq(excess, 0.0, float(values.max()), xtol=1e-15, rtol=1e-12))
    coded = values > errors
    bits = 0.5 * float((values[coded] / errors[coded]).log2().sum())
    return OperatingPoint(bits, distortion, errors)


def shannon_lower_bound(entropies: Tensor, distortion: float) -> float:
    """R(D) ≥ this many bits a token, of independent channels: the largest bound of any of them.

    `entropies` (channels,): differential, in nats; −∞ of a channel that is constant.
    """
    channels = torch.arange(1, len(entropies) + 1, dtype=torch.float64)
    noise = 0.5 * channels * (2 * math.pi * math.e * 2 * distortion / channels).log()
    bounds = entropies.sort(descending=True).values.cumsum(0) - noise
    return max(0.0, float(bounds.max())) / NATS_PER_BIT


def independent_entropies(latents: Tensor) -> tuple[Tensor, float]:
    """Differential entropy in nats of each channel (channels,), and the standard error of the sum.

    latents (samples, channels). Spacings estimate of each channel (Van Es 1992, by SciPy), which
    errs downwards, for 8,192 Gaussian samples by 0.04 nats a channel; −∞ where values repeat so
    often that there is none, and of fewer than five samples, with an infinite error. Channels that
    are dependent have less than the sum: the Shannon lower bound assumes the transform left none.
    """
    samples, channels = latents.shape
    if samples < _FEWEST:
        return torch.full((channels,), -math.inf, dtype=torch.float64), math.inf
    width = round(math.sqrt(samples))
    ordered = latents.double().sort(0).values
    spacings = ordered[width:] - ordered[:-width]
    found = torch.full((channels,), -math.inf, dtype=torch.float64)
    varied = (spacings > 0).all(0)
    found[varied] = torch.from_numpy(
        differential_entropy(ordered[:, varied], window_length=width, method="van es", axis=0)
    )
    # Entropy is the mean of −log density; its error follows from the spread of that.
    spread = spacings[:, varied].log().numpy().var(0)
    return found, math.sqrt(float(spread.sum()) / samples)


def quantiser_rate(variances: Tensor, rate_weight: float) -> OperatingPoint:
    """What scalar quantisers reach on Gaussian channels at λ = `rate_weight` nats a bit.

    Each channel takes the step that minimises ½ error² + λ · bits, or nothing, as the closed-form
    codec does with real channels.
    """
    values = variances.double().clamp_min(1e-300)
    ratios, bits, errors, multiples = _quantiser_table()
    position = (values / rate_weight).log().numpy()
    clipped = np.clip(position, ratios[0], ratios[-1])
    rate = torch.from_numpy(np.interp(clipped, ratios, bits))
    # Beyond the table: high rate, where a doubled amplitude is one bit more.
    rate = rate + torch.from_numpy(position - clipped).clamp_min(0) / (2 * NATS_PER_BIT)
    error = rate_weight * torch.from_numpy(np.exp(np.interp(clipped, ratios, errors)))
    error = torch.where(rate > 0, torch.minimum(error, values), values)
    multiple = torch.from_numpy(np.interp(clipped, ratios, multiples))
    return OperatingPoint(float(rate.sum()), 0.5 * float(error.sum()), error, multiple)


@cache
def _quantiser_table() -> tuple[np.ndarray, ...]:
    """For ln(ν/λ): bits, ln(error/λ) and multiple of the best uniform quantiser."""
    ratios = np.linspace(-1.0, 14.0, 121)
    found = []
    for ratio in ratios:
        variance = math.exp(ratio)
        rate, error, multiple = _best_quantiser(variance)
        found.append((rate, math.log(error), multiple))
    return ratios, *np.array(found).T


def _best_quantiser(variance: float) -> tuple[float, float, float]:
    """Bits, error and multiple at λ = 1 of the best step for a Gaussian, by enumeration."""
    start, deviation = math.sqrt(12 / NATS_PER_BIT), math.sqrt(variance)
    best = (0.5 * variance, 0.0, variance, 1.0)
    for step in start * np.logspace(-0.3, 0.6, 25):
        scale = deviation / step
        reach = math.ceil(6 * scale) + 1
        symbols = torch.arange(-reach, reach + 1, dtype=torch.float64)
        shares = Gaussian().likelihood(symbols, torch.full_like(symbols, scale)).clamp_min(1e-300)
        rate = float(-(shares * shares.log2()).sum())
        edges = torch.cat([symbols - 0.5, symbols[-1:] + 0.5]) / scale
        density = torch.exp(-0.5 * edges.square()) / math.sqrt(2 * math.pi)
        moments = scale * (density[:-1] - density[1:])  # E[x; x in the cell], in steps
        energy, covariance = (shares * symbols.square()).sum(), (moments * symbols).sum()
        error = step**2 * float(scale**2 - covariance.square() / energy.clamp_min(1e-300))
        cost = 0.5 * error + rate
        if cost < best[0]:
            best = (cost, rate, error, float(covariance / energy))
    return best[1:]
