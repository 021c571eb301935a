"""Deep factorised density: one learned, monotone cumulative function a channel.

Ballé et al. 2018, appendix 6.1. The same model as CompressAI's EntropyBottleneck, without its
quantiles: coding tables are centred on the integers that carry the mass.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.densities.channelwise import ChannelwiseDensity

_WIDTHS = (1, 3, 3, 3, 1)


class DeepFactorised(ChannelwiseDensity):
    """Density of independent channels by a small monotone network each."""

    def __init__(self, channels: int, spread: Tensor | float = 3.0) -> None:
        super().__init__(channels)
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for width, next_width in itertools.pairwise(_WIDTHS):
            self.matrices.append(torch.empty(channels, next_width, width))
            self.biases.append(torch.rand(channels, next_width, 1) - 0.5)
            if next_width > 1:
                self.factors.append(torch.zeros(channels, next_width, 1))
        self.initialise(spread)

    @torch.no_grad()
    def initialise(self, spread: Tensor | float) -> None:
        """See ChannelwiseDensity; the medians move to zero, the factors stay."""
        scale = torch.as_tensor(spread, dtype=torch.float64) ** (1 / (len(_WIDTHS) - 1))
        for matrix in self.matrices:
            start = torch.log(torch.expm1(1 / scale / matrix.shape[1]))
            matrix.copy_(start.expand(self.channels)[:, None, None].expand_as(matrix))
        last = self.biases[-1]
        last.sub_(self._logits(torch.zeros_like(last)))

    def _logits(self, values: Tensor) -> Tensor:
        """Logits of the cumulative at values (channels, 1, n)."""
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            values = functional.softplus(matrix) @ values + bias
            if layer < len(self.factors):
                values = values + self.factors[layer].tanh() * values.tanh()
        return values

    def likelihood(self, values: Tensor) -> Tensor:
        """See ChannelwiseDensity."""
        flat = values[None].flatten(0, -2).T[:, None]
        lower, upper = self._logits(flat - 0.5), self._logits(flat + 0.5)
        # Far out on either side the difference is taken where the sigmoids are small.
        sign = torch.where(lower + upper > 0, -1.0, 1.0).to(values)
        mass = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return mass[:, 0].T.reshape(values.shape)
