"""Deep factorised density: one learned, monotone cumulative function a channel.

Ballé et al. 2018, appendix 6.1. The same model as CompressAI's EntropyBottleneck, without its
quantiles: coding tables are centred on the integers that carry the mass.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.coding.entropy import Tables, quantise_tables

_LEAST_LIKELIHOOD = 2.0**-24
_WIDTHS = (1, 3, 3, 3, 1)
REACH = 63
"""Largest magnitude that the coding tables hold."""


class DeepFactorised(nn.Module):
    """Density of independent channels, each with its own shape.

    `spread`: the scale of the values at the start; far from it, training takes long to settle.
    """

    def __init__(self, channels: int, spread: float = 3.0) -> None:
        super().__init__()
        self.channels = channels
        scale = spread ** (1 / (len(_WIDTHS) - 1))
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for width, next_width in itertools.pairwise(_WIDTHS):
            start = math.log(math.expm1(1 / scale / next_width))
            self.matrices.append(torch.full((channels, next_width, width), start))
            self.biases.append(torch.rand(channels, next_width, 1) - 0.5)
            if next_width > 1:
                self.factors.append(torch.zeros(channels, next_width, 1))

    def _logits(self, values: Tensor) -> Tensor:
        """Logits of the cumulative at values (channels, 1, n)."""
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            values = functional.softplus(matrix) @ values + bias
            if layer < len(self.factors):
                values = values + self.factors[layer].tanh() * values.tanh()
        return values

    def likelihood(self, values: Tensor) -> Tensor:
        """Probability of the unit-wide bin around values (…, channels); same shape."""
        flat = values.reshape(-1, self.channels).T[:, None]
        lower, upper = self._logits(flat - 0.5), self._logits(flat + 0.5)
        # Far out on either side the difference is taken where the sigmoids are small.
        sign = -torch.sign(lower + upper).detach()
        mass = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return mass[:, 0].T.reshape(values.shape)

    def bits(self, values: Tensor) -> Tensor:
        """Code length in bits of each value (…, channels)."""
        return -self.likelihood(values).clamp_min(_LEAST_LIKELIHOOD).log2()

    @torch.no_grad()
    def tables(self, reach: int = REACH) -> Tables:
        """Integer tables, one a channel, over -reach … reach; beyond, the coder escapes."""
        support = torch.arange(-reach, reach + 1.0, device=self.biases[0].device)
        mass = self.likelihood(support[:, None].expand(-1, self.channels)).T
        return quantise_tables(list(mass), [-reach] * self.channels)
