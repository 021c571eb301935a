"""Fourier basis density: a squared trigonometric polynomial a channel, on the mapped real line.

De la Fuente, Singh and Ballé 2024 (arXiv 2402.15345). On (-1, 1) the density is proportional to
f(x) = |Σₖ aₖ exp(iπkx)|² = Σₙ cₙ exp(iπnx), with c the autocorrelation of a, so it is never
negative, its integral is 2 c₀ and that over a bin is a closed form. x = tanh(v / s - t) maps the
real line to (-1, 1), with scale s and offset t learned.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from splitcodec.densities.channelwise import ChannelwiseDensity

COEFFICIENTS = 60
"""Complex coefficients a channel, as in de Andrade et al. 2026."""
_CHUNK = 1 << 15
"""Values whose waves are held at once: few enough for the processor's cache."""
_VARIATION_WEIGHT = 1e-6


class FourierBasis(ChannelwiseDensity):
    """Density of independent channels by a Fourier series each."""

    def __init__(self, channels: int, spread: Tensor | float = 3.0) -> None:
        super().__init__(channels)
        # real and imaginary parts of a
        self.coefficients = nn.Parameter(torch.zeros(channels, COEFFICIENTS, 2))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.offset = nn.Parameter(torch.zeros(channels))
        self.initialise(spread)

    @torch.no_grad()
    def initialise(self, spread: Tensor | float) -> None:
        """See ChannelwiseDensity: a constant on (-1, 1) is a logistic density of scale s / 2."""
        self.coefficients.zero_()
        self.coefficients[:, 0, 0] = 1
        self.log_scale.copy_(torch.log(2 * torch.as_tensor(spread)).expand(self.channels))
        self.offset.zero_()

    def _series(self) -> Tensor:
        """cₙ / c₀ for n = 1 … 59, complex (channels, 59)."""
        own = torch.view_as_complex(self.coefficients)
        shifted = functional.pad(own, (0, COEFFICIENTS - 1)).unfold(-1, COEFFICIENTS, 1)
        series = torch.einsum("cnk,ck->cn", shifted, own.conj())
        return series[:, 1:] / series[:, :1].real

    def likelihood(self, values: Tensor) -> Tensor:
        """See ChannelwiseDensity."""
        series, rows = self._series(), max(1, _CHUNK // max(1, self.channels))
        parts = [
            checkpoint(self._masses, part, series, use_reentrant=False, preserve_rng_state=False)
            for part in values[None].flatten(0, -2).split(rows)
        ]
        return torch.cat(parts).view_as(values)

    def _masses(self, values: Tensor, series: Tensor) -> Tensor:
        middle, half = self._bins(values)
        frequency = math.pi * torch.arange(
            1, COEFFICIENTS, device=values.device, dtype=middle.dtype
        )
        phase = middle[..., None] * frequency
        waves = series.real * phase.cos() - series.imag * phase.sin()
        return half + (waves * (half[..., None] * frequency).sin() * (2 / frequency)).sum(-1)

    def _bins(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Middle and half width on (-1, 1) of the unit-wide bins around values."""
        scale = self.log_scale.exp()
        lower = (values - 0.5) / scale - self.offset
        upper = (values + 0.5) / scale - self.offset
        middle = (lower.tanh() + upper.tanh()) / 2
        # tanh u - tanh l = sinh(u - l) / (cosh u · cosh l), written so that nothing overflows and
        # nothing cancels far out, where both are nearly one.
        inner = torch.exp(1 / scale - lower.abs() - upper.abs()) * -torch.expm1(-2 / scale)
        outer = (1 + torch.exp(-2 * lower.abs())) * (1 + torch.exp(-2 * upper.abs()))
        return middle, inner / outer

    def penalty(self) -> Tensor:
        """10⁻⁶ times the variation ∫ p'(x)² dx on (-1, 1), summed over the channels."""
        orders = math.pi * torch.arange(1, COEFFICIENTS, device=self.offset.device)
        series = self._series()
        # p = ½ Σ (cₙ / c₀) exp(iπnx), and -n varies as much as n
        power = series.real.square() + series.imag.square()
        return _VARIATION_WEIGHT * (orders.square() * power).sum()
