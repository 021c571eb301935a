"""Levels: each token is quantised at one of several steps, so that bits go where they matter.

The model does not care about all tokens alike: an error costs a token with a large gradient more.
A token with s times the mean sensitivity deserves steps 1/√s as long (reverse water-filling with a
weighted distortion, Cover and Thomas §10.3). The encoder predicts log s linearly from the token's
representation and sends the level, the step's logarithm in units of `UNIT`; the decoder needs no
prediction. A base level moves all tokens alike, since steps grow with √λ: one codec then serves a
range of λ, as the gain units of Cui et al. 2021 do for images.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from splitcodec.coding.entropy import Tables, quantise_tables
from splitcodec.densities.location_scale import TABLE_STEP

TABLES_A_LEVEL = 2
UNIT = TABLES_A_LEVEL * TABLE_STEP
"""Logarithm of the ratio between the steps of two levels: a whole number of coding tables."""
_FARTHEST = 6.0
"""Deviations from the mean beyond which a channel says no more about its token's sensitivity."""


@dataclass(frozen=True)
class TokenWeights:
    """log s of a token is offset + weight · clamp((y − centre) / spread), s of mean one.

    All (channels,) float64, the offset a scalar.
    """

    centre: Tensor
    spread: Tensor
    weight: Tensor
    offset: Tensor

    @classmethod
    def flat(cls, centre: Tensor, spread: Tensor) -> Self:
        """All tokens count alike."""
        return cls(centre, spread, torch.zeros_like(centre), centre.new_zeros(()))

    def inputs(self, representation: Tensor) -> Tensor:
        """The channels of tokens (…, channels) as the prediction sees them, float64."""
        deviation = (representation.to(self.centre) - self.centre) / self.spread
        return deviation.clamp(-_FARTHEST, _FARTHEST)

    def log_sensitivity(self, representation: Tensor) -> Tensor:
        """Of each token of a representation (…, channels), (…) float64."""
        return self.inputs(representation) @ self.weight + self.offset


class Levels(nn.Module):
    """What a codec needs to choose levels, and how they are coded: one table for all tokens."""

    def __init__(self, channels: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        for name in ("centre", "spread", "weight"):
            self.register_buffer(name, torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))
        self.register_buffer("base", torch.zeros((), dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(4 * reach + 1, dtype=torch.int64))

    @property
    def finest(self) -> float:
        """The shortest step that a token can have, relative to level zero."""
        return math.exp(-UNIT * self.reach)

    def start_from(self, weights: TokenWeights) -> None:
        """Predict sensitivities as `weights` do."""
        for name in ("centre", "spread", "weight", "offset"):
            getattr(self, name).copy_(getattr(weights, name))

    def set_rate(self, ratio: float) -> None:
        """Code at `ratio` times the λ that level zero was made for."""
        self.base.fill_(math.log(ratio) / (2 * UNIT))

    def choose(self, representation: Tensor) -> Tensor:
        """The level of each token (batch, tokens, channels) → (batch, tokens), int64."""
        weights = TokenWeights(self.centre, self.spread, self.weight, self.offset)
        wanted = self.base - weights.log_sensitivity(representation) / (2 * UNIT)
        # What is no number has none, which its bits tell.
        return wanted.round().nan_to_num(0).clamp(-self.reach, self.reach).long()

    def count(self, representation: Tensor) -> None:
        """Take the frequencies of the symbols of these tokens (tokens, channels)."""
        symbols = self.symbols(self.choose(representation)) + 2 * self.reach
        self.counts.copy_(torch.bincount(symbols, minlength=len(self.counts)))

    def symbols(self, levels: Tensor) -> Tensor:
        """What is coded of levels: how far they are from the base."""
        return levels - self._rounded_base()

    def levels(self, symbols: Tensor) -> Tensor:
        """The levels of decoded symbols; what no encoder sends becomes the nearest it does."""
        return (symbols.long() + self._rounded_base()).clamp(-self.reach, self.reach)

    def bits(self, levels: Tensor, tables: Tables) -> Tensor:
        """Code length of each level under the integer table; same shape, float32."""
        mass = tables.cumulative.diff(dim=1)[0]
        return -(mass[self.symbols(levels) + 2 * self.reach] / mass.sum()).log2()

    @torch.no_grad()
    def tables(self) -> Tables:
        """One, from the counts; what was never seen counts as one."""
        counts = self.counts.double() + 1
        return quantise_tables([counts / counts.sum()], [-2 * self.reach])

    def penalty(self) -> Tensor:
        """What the level adds to the training loss: nothing."""
        return torch.zeros(())

    def _rounded_base(self) -> Tensor:
        return self.base.round().long().clamp(-self.reach, self.reach)


def in_steps(latent: Tensor, steps: Tensor | float) -> Tensor:
    """A latent, or a part of it, in the steps of its tokens; of the same type."""
    return latent / steps.to(latent) if isinstance(steps, Tensor) else latent


@dataclass(frozen=True)
class Known:
    """What both ends know of tokens before their latents are coded.

    offsets (…, tokens, channels): the part of the mean that is due to token ids; levels
    (batch, tokens, 1) int64, or None where the codec has one step a channel.
    """

    offsets: Tensor
    levels: Tensor | None = None

    @property
    def steps(self) -> Tensor | float:
        """Of each token, relative to level zero; (batch, tokens, 1) float64."""
        return 1.0 if self.levels is None else (UNIT * self.levels.double()).exp()

    @property
    def shift(self) -> Tensor | int:
        """By how many coding tables the scale of a token is smaller than at level zero."""
        return 0 if self.levels is None else TABLES_A_LEVEL * self.levels

    def at(self, token: int) -> "Known":
        """Of one token alone, without its axis."""
        levels = None if self.levels is None else self.levels[:, token]
        return Known(self.offsets[..., token, :], levels)

    def flat(self) -> "Known":
        """Of the tokens of all sequences, one after the other; levels alone."""
        return Known(self.offsets, None if self.levels is None else self.levels.flatten(0, 1))

    def rows(self, chosen: Tensor | slice | tuple[int, slice]) -> "Known":
        """Of some tokens: (batch, tokens) bool, a row and a slice of it, or a slice of what `flat`
        gives; levels alone."""
        return Known(self.offsets, None if self.levels is None else self.levels[chosen])
