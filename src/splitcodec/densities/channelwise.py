"""What densities with a shape a channel have in common: code lengths and coding tables."""

import math

import torch
from torch import Tensor, nn

from splitcodec.coding.entropy import Tables, quantise_tables

LEAST_LIKELIHOOD = 2.0**-24
"""Below it a symbol is taken to cost 24 bits, whatever the density says of it."""
_TAIL_MASS = 2.0**-17
REACH = 511
"""Largest magnitude that a coding table may hold."""


def logistic_scale(deviations: Tensor) -> Tensor:
    """The scale of logistic densities of given standard deviations."""
    return deviations * math.sqrt(3) / math.pi


class ChannelwiseDensity(nn.Module):
    """Density of independent channels, each with its own shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def initialise(self, spread: Tensor | float) -> None:
        """Start again near a logistic density of scale `spread`, one or (channels,).

        Far from the scale of the values, training takes long to settle.
        """
        raise NotImplementedError

    def likelihood(self, values: Tensor) -> Tensor:
        """Probability of the unit-wide bin around values (…, channels); same shape."""
        raise NotImplementedError

    def bits(self, values: Tensor) -> Tensor:
        """Code length in bits of each value (…, channels)."""
        return -self.likelihood(values).clamp_min(LEAST_LIKELIHOOD).log2()

    def penalty(self) -> Tensor:
        """What the shapes add to the training loss."""
        return torch.zeros(())

    @torch.no_grad()
    def tables(self, reach: int = REACH) -> Tables:
        """Integer tables, one a channel, within -reach … reach; beyond, the coder escapes.

        A table ends where less than 2^-17 of the mass is left: each symbol more takes a frequency.
        """
        device = next(self.parameters()).device
        support = torch.arange(-reach, reach + 1.0, device=device)
        mass = self.likelihood(support[:, None].expand(-1, self.channels)).T.cpu()
        below, above = mass.cumsum(-1), mass.flip(-1).cumsum(-1).flip(-1)
        held = (below > _TAIL_MASS) & (above > _TAIL_MASS)
        held |= torch.nn.functional.one_hot(mass.argmax(-1), 2 * reach + 1).bool()
        places = [row.nonzero()[:, 0] for row in held]
        rows = [row[at[0] : at[-1] + 1] for row, at in zip(mass, places, strict=True)]
        return quantise_tables(rows, [int(at[0]) - reach for at in places])
