"""Discretised conditionals of one shape: code integers whose mean and scale are predicted.

Ballé et al. 2018 (scale hyper-prior), eq. 5; means as in Minnen et al. 2018. A family is a
symmetric distribution of unit variance: Gaussian, Laplace, logistic, or a scale mixture of
Gaussians whose weights and relative scales are learned. Since only mean and scale vary from symbol
to symbol, coding needs a table for each of 64 scales in geometric steps, as in CompressAI; the
coarse scale costs about 0.05 % in rate.
"""

import math

import torch
from torch import Tensor, nn

from splitcodec.coding.entropy import Tables, quantise_tables
from splitcodec.densities.channelwise import LEAST_LIKELIHOOD

SCALES = 64
LOWEST_SCALE, HIGHEST_SCALE = 0.11, 64.0
TABLE_STEP = math.log(HIGHEST_SCALE / LOWEST_SCALE) / (SCALES - 1)
_COMPONENTS = 3


def table_scales() -> Tensor:
    """The scales of the coding tables, (64,) float64."""
    return log_scales_at(torch.arange(SCALES, dtype=torch.float64)).exp()


def table_positions(log_scales: Tensor, log_ratios: Tensor, shift: Tensor | int = 0) -> Tensor:
    """Where scales lie among the coding tables, 0 … 63, in units of a table.

    `log_scales` and what is added to them, by logarithms; less a `shift` by whole tables. Of the
    type of `log_ratios`.
    """
    start = (log_scales - math.log(LOWEST_SCALE)) / TABLE_STEP - shift
    return torch.add(start.to(log_ratios), log_ratios, alpha=1 / TABLE_STEP).clamp_(0, SCALES - 1)


def positions_of(log_scales: Tensor) -> Tensor:
    """Where scales lie among the coding tables, of the scales' type."""
    return (log_scales - math.log(LOWEST_SCALE)) / TABLE_STEP


def log_scales_at(positions: Tensor) -> Tensor:
    """The logarithms of the scales at positions among the coding tables."""
    return math.log(LOWEST_SCALE) + TABLE_STEP * positions


def scale_indexes(scales: Tensor) -> Tensor:
    """The coding table, 0 … 63, that is nearest to each scale in ratio; int32."""
    log_scales = scales.log()
    return table_positions(log_scales, torch.zeros_like(log_scales)).round().to(torch.int32)


def _normal_exceedance(deviations: Tensor) -> Tensor:
    """Exact far out, which torch.special.ndtr is not."""
    return 0.5 * torch.special.erfc(deviations / math.sqrt(2))


class LocationScale(nn.Module):
    """Base of the families. Scales are standard deviations.

    `tail`: how many deviations the coding tables reach; the mass beyond, below 2^-16 for a fixed
    shape, is the escape's.
    """

    tail: float

    def exceedance(self, deviations: Tensor) -> Tensor:
        """Probability of a value above `deviations`, at mean 0 and scale 1; same shape."""
        raise NotImplementedError

    def likelihood(self, residuals: Tensor, scales: Tensor) -> Tensor:
        """Probability of the unit-wide bin around `residuals` under `scales`; same shapes."""
        # On the upper side both terms are small where their difference is.
        distance = residuals.abs()
        inner, outer = (distance - 0.5) / scales, (distance + 0.5) / scales
        return self.exceedance(inner) - self.exceedance(outer)

    def bits(self, residuals: Tensor, scales: Tensor) -> Tensor:
        """Code length in bits of each residual; bounded where the coder would escape."""
        scales = scales.clamp(LOWEST_SCALE, HIGHEST_SCALE)
        return -self.likelihood(residuals, scales).clamp_min(LEAST_LIKELIHOOD).log2()

    def penalty(self) -> Tensor:
        """What the shape adds to the training loss: nothing."""
        return torch.zeros(())

    @torch.no_grad()
    def tables(self) -> Tables:
        """Integer tables for the 64 scales, symmetric about zero."""
        rows, lowest = [], []
        for scale in table_scales():
            reach = math.ceil(self.tail * float(scale))
            support = torch.arange(-reach, reach + 1, dtype=torch.float64)
            rows.append(self.likelihood(support, scale))
            lowest.append(-reach)
        return quantise_tables(rows, lowest)

    @torch.no_grad()
    def table_bits(self, reach: int) -> Tensor:
        """Code length in bits of the integers -reach … reach under each table, (64, 2·reach+1)."""
        support = torch.arange(-reach, reach + 1, dtype=torch.float64)
        return self.bits(support[None], table_scales()[:, None])


class Gaussian(LocationScale):
    """The normal distribution."""

    tail = 4.5

    def exceedance(self, deviations: Tensor) -> Tensor:
        """See LocationScale."""
        return _normal_exceedance(deviations)


class Laplace(LocationScale):
    """The double exponential distribution."""

    tail = 8.5

    def exceedance(self, deviations: Tensor) -> Tensor:
        """See LocationScale."""
        beyond = 0.5 * torch.exp(-math.sqrt(2) * deviations.abs())
        return torch.where(deviations > 0, beyond, 1 - beyond)


class Logistic(LocationScale):
    """The logistic distribution."""

    tail = 7.0

    def exceedance(self, deviations: Tensor) -> Tensor:
        """See LocationScale."""
        return torch.sigmoid(-math.pi / math.sqrt(3) * deviations)


class GaussianMixture(LocationScale):
    """A scale mixture of Gaussians: one learned shape for all symbols, of unit variance."""

    tail = 9.0

    def __init__(self) -> None:
        super().__init__()
        self.weight_logits = nn.Parameter(torch.zeros(_COMPONENTS))
        self.log_ratios = nn.Parameter(torch.linspace(-0.5, 0.5, _COMPONENTS))

    def components(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, which sum to one, and deviations, at which the mixture's variance is one."""
        weights = self.weight_logits.to(like).softmax(0)
        deviations = self.log_ratios.to(like).exp()
        return weights, deviations / (weights * deviations.square()).sum().sqrt()

    def exceedance(self, deviations: Tensor) -> Tensor:
        """See LocationScale."""
        return sum(
            weight * _normal_exceedance(deviations / own)
            for weight, own in zip(*self.components(like=deviations), strict=True)
        )


FAMILIES: dict[str, type[LocationScale]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "logistic": Logistic,
    "mixture": GaussianMixture,
}
"""The families by the names of the hyper-parameter."""
