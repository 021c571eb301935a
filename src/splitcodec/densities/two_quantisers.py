"""Gaussians under two quantisers that take turns: of whole steps, and of halves between them.

The first is uniform: symbol k stands for k steps. The second is shifted by half a step, and has
zero as well, since at low rates most values are nearly that: ±k stands for ±(k − ½), 0 for 0.
Dependent quantisation in Versatile Video Coding has the same two (Schwarz et al. 2021,
"Quantization and Entropy Coding in the Versatile Video Coding (VVC) Standard").
"""

import math

import torch
from torch import Tensor, nn

from splitcodec.coding.entropy import PRECISION, Tables, quantise_tables
from splitcodec.densities.latest import Latest
from splitcodec.densities.location_scale import SCALES, Gaussian, table_scales

BIT = 1 << 10
"""In the integers in which a search counts."""
_ESCAPE = 8 * BIT
"""Beyond the table's interval, so that no symbol counts as more than 24 bits, as elsewhere."""
_PRIOR = 30.0
"""Symbols that the Gaussian shape counts as, against those that were seen."""


class TwoQuantisers(nn.Module):
    """Tables 0 … 63 are of the first quantiser for as many scales, 64 … 127 of the second.

    They are Gaussian to begin with. Symbols that a search has chosen for their bits are not quite,
    so tables learn from counts of them.
    """

    counts: Tensor
    """How often each magnitude was seen under each table, (128, magnitudes) int32."""

    def __init__(self) -> None:
        super().__init__()
        longest = max(map(_reach, table_scales().tolist()))
        counts = torch.zeros(2 * SCALES, longest + 1, dtype=torch.int32)
        self.register_buffer("counts", counts)
        self._costs = Latest(_costs_of)

    def count(self, magnitudes: Tensor, tables: Tensor) -> None:
        """Take the frequencies of symbols without their sign under `tables`, of the same shape."""
        longest = self.counts.shape[1]
        there = magnitudes < longest
        cells = (longest * tables.long() + magnitudes)[there]
        found = torch.bincount(cells, minlength=self.counts.numel())
        self.counts.copy_(found.view_as(self.counts))

    def costs(self, tables: Tables) -> Tensor:
        """See `table_costs`; kept while the tables stay."""
        return self._costs(tables.cumulative, tables.sizes, tables.lowest)

    def bits(self, symbols: Tensor, indexes: Tensor, tables: Tables) -> Tensor:
        """Code length of each symbol under the integer table of its index; same shape, float32."""
        costs = self.costs(tables)
        magnitudes = symbols.abs().clamp(max=costs.shape[1] - 1)
        return costs[indexes.long(), magnitudes.long()].float() / BIT

    def penalty(self) -> Tensor:
        """What the shape adds to the training loss: nothing."""
        return torch.zeros(())

    @torch.no_grad()
    def tables(self) -> Tables:
        """Integer tables, symmetric about zero."""
        rows, lowest = [], []
        shapes = [(form, s) for form in (Gaussian().likelihood, _shifted) for s in table_scales()]
        for (likelihood, scale), counts in zip(shapes, self.counts.cpu().double(), strict=True):
            reach = _reach(float(scale))
            support = torch.arange(-reach, reach + 1, dtype=torch.float64)
            seen = counts[support.abs().long()] / 2
            seen[reach] *= 2  # zero has no sign
            rows.append((seen + _PRIOR * likelihood(support, scale)) / (counts.sum() + _PRIOR))
            lowest.append(-reach)
        return quantise_tables(rows, lowest)


def _reach(scale: float) -> int:
    return math.ceil(Gaussian.tail * scale) + 1


def values_of(symbols: Tensor, shifted: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What symbols stand for, in steps; of the shape of both. `shifted` is 0 or 1."""
    return symbols.to(dtype) - 0.5 * (symbols.sign() * shifted).to(dtype)


def _shifted(symbols: Tensor, scale: Tensor) -> Tensor:
    """Probability of each symbol of the second quantiser: of what is nearest to its value."""
    distance = symbols.abs()
    inner = torch.where(distance == 1, 0.25, distance - 1)
    outer = torch.where(distance == 0, 0.25, distance)
    tails = Gaussian().exceedance
    mass = tails(inner / scale) - tails(outer / scale)
    return torch.where(distance == 0, 1 - 2 * tails(outer / scale), mass)


def _costs_of(*parts: Tensor) -> Tensor:
    return table_costs(Tables(*parts))


def table_costs(tables: Tables) -> Tensor:
    """What the symbols 0, 1, … cost under each of these symmetric tables, int32, in 1/1024 bit.

    The last is what symbols cost that are escaped, about.
    """
    frequencies = tables.cumulative.diff(dim=1).double()
    longest = 1 - int(tables.lowest.min())
    places = torch.arange(longest + 1, device=frequencies.device) - tables.lowest[:, None]
    escape = tables.sizes[:, None] - 2
    found = frequencies.gather(1, places.minimum(escape).long())
    bits = ((PRECISION - found.log2()) * BIT).round().to(torch.int32)
    return bits + _ESCAPE * (places >= escape)
