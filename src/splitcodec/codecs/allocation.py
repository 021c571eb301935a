"""Bit allocation: the step and coding table of each channel, at one λ.

A channel's uniform step is the one of least divergence + λ · bits, by exact counts over a sample.
The error counted is that of the best multiple of the quantised value. Codecs decode the value
itself: a multiple errs along the signal, in all channels at once, and that costs the model more
than the second order says (`benchmarks/leads.py`).
Channels not worth their bits are dropped (reverse water-filling, Cover and Thomas §10.3, by
search), and so are those that are hardly worth the time, all together at most 0.03 % of that cost.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitcodec.densities.location_scale import Gaussian

REACH = 288
"""Largest symbol that is counted as it is."""
_STEP_RATIOS = torch.logspace(-0.3, 0.45, 11)
_HARDLY = 3e-4
"""Share of divergence + λ · bits that all channels together may add that are left out for time."""


@dataclass(frozen=True)
class Quantisation:
    """Per channel: step, coding table, and whether it is coded at all."""

    steps: Tensor
    tables: Tensor
    coded: Tensor


def high_rate_step(rate_weight: float) -> float:
    """The step of a uniform quantiser that is optimal at high rate, Δ² = 12 λ / ln 2."""
    return math.sqrt(12 * rate_weight / math.log(2))


def choose_quantisation(latents: Tensor, rate_weight: float) -> Quantisation:
    """Steps and tables for `latents` (samples, channels), minimising ½ error² + λ · bits.

    The search starts from the step that is optimal at high rate.
    """
    start, sorted_latents = high_rate_step(rate_weight), _Sorted(latents)
    bits = Gaussian().table_bits(REACH).T.float()
    costs, tables = zip(
        *(_cost_at(sorted_latents, start * float(r), rate_weight, bits) for r in _STEP_RATIOS),
        strict=True,
    )
    best_cost, best = torch.stack(costs).min(0)
    steps = start * _STEP_RATIOS[best]
    table = torch.stack(tables).gather(0, best[None])[0]
    coded = _worth_coding(best_cost, 0.5 * sorted_latents.energy)
    return Quantisation(steps, table, coded)


def _worth_coding(costs: Tensor, zeros: Tensor) -> Tensor:
    """Channels whose `costs` if coded are well below those of `zeros`, all (channels,)."""
    saved, order = (zeros - costs).clamp_min(0).sort()
    worth = torch.zeros_like(costs, dtype=torch.bool)
    worth[order] = saved.cumsum(0) > _HARDLY * torch.minimum(costs, zeros).sum()
    return worth


class _Sorted:
    """Latents (samples, channels), sorted once so that any step's symbols are counted by search.

    energy (channels,): mean square.
    """

    def __init__(self, latents: Tensor) -> None:
        self.values = latents.T.contiguous().sort(-1).values
        self.samples = len(latents)
        exact = self.values.double()
        self._sums = functional.pad(exact.cumsum(-1), (1, 0))
        self._squares = functional.pad(exact.square().cumsum(-1), (1, 0))
        self.energy = (self._squares[:, -1] / self.samples).float()

    def symbols(self, step: float) -> tuple[Tensor, Tensor, Tensor]:
        """Frequencies of −reach … reach at a step, (channels, 2·reach+1); mean square of symbols,
        and of their product with the latents, (channels,). What lies beyond the reach, which the
        coder escapes, is taken as exact."""
        edges = step * (torch.arange(-REACH, REACH) + 0.5)
        ranks = torch.searchsorted(self.values, edges.expand(len(self.values), -1).contiguous())
        ranks = functional.pad(functional.pad(ranks, (1, 0)), (0, 1), value=self.samples)
        counts = ranks.diff().double() / self.samples
        sums, squares = (
            total.gather(1, ranks).diff() / self.samples for total in (self._sums, self._squares)
        )
        symbols = torch.arange(-REACH, REACH + 1.0, dtype=torch.float64)
        beyond = squares[:, [0, -1]].sum(-1)
        inner = slice(1, -1)
        energy = counts[:, inner] @ symbols[inner].square() + beyond / step**2
        product = sums[:, inner] @ symbols[inner] + beyond / step
        return counts.float(), energy, product


def _cost_at(
    latents: _Sorted, step: float, rate_weight: float, table_bits: Tensor
) -> tuple[Tensor, Tensor]:
    """Cost and best table of every channel at one step."""
    counts, energy, product = latents.symbols(step)
    multiple = (product / (step * energy.clamp_min(1e-12))).clamp(0.5, 1.5)
    error = latents.energy - 2 * multiple * step * product + (multiple * step).square() * energy
    rate, table = (counts @ table_bits).min(-1)
    return 0.5 * error.clamp_min(0).float() + rate_weight * rate, table
