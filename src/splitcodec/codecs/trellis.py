"""The closed form with trellis-coded quantisation: denser than rounding, for no bits.

At the rates at which representations are coded, a uniform quantiser of each channel needs up to a
quarter of a bit a value more than rate–distortion theory asks; a trellis over the channels of a
token gets half of that back, and more where the rate is high. Each channel has two quantisers
(`densities.two_quantisers`), and the parities of the token's symbols before say which one a symbol
belongs to (`codecs.viterbi`). The encoder takes the symbols of least divergence + λ · bits, to
second order and of the quantisers' own values. Weighing bits shrinks what is decoded, and that errs
along the signal (`benchmarks/leads.py`): each channel is decoded longer by as much, half at most.
"""

import torch
from torch import Tensor

from splitcodec.codecs.hyperparameters import TrellisHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import Known
from splitcodec.codecs.networks import Past
from splitcodec.codecs.transform import TransformCodec
from splitcodec.codecs.viterbi import State, cheapest_path
from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.densities.location_scale import SCALES, scale_indexes, table_scales
from splitcodec.densities.two_quantisers import BIT, TwoQuantisers, table_costs, values_of

_STEP = 1.3
"""Of each quantiser, relative to the closed form's: values of both together lie half as far."""
_GRID = 16
"""The search knows latents to a sixteenth of a step: exactly, and finely enough."""
_ZERO_REACH = 8 * _GRID
"""Beyond it zero costs no more than there: more than an escape, and yet less than 2²⁴."""
_LEAST_WEIGHT, _MOST_WEIGHT = 2, 1 << 9
_ROUNDS = 3
"""Tables decide about symbols, which decide about tables."""
_LONGEST = 1.5
_FARTHEST = float(1 << 30)
_TOGETHER = 2048
"""Tokens that are searched at a time, on any device: what a search keeps is 40 bytes a symbol."""


class Trellis(TransformCodec):
    """u = A (y − μ), quantised along the channels of each token."""

    hyperparameters: TrellisHyperparameters
    scale_index: Tensor
    """The table of each channel under the first quantiser, (kept,) int32."""
    error_weight: Tensor
    """What an error of a sixteenth of a step costs, (kept,) int32, in 1/1024 bit."""

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: TrellisHyperparameters,
        kept: int = 0,
        vocabulary: int = 0,
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, vocabulary)
        self.quantisers = TwoQuantisers()
        self.register_buffer("scale_index", torch.zeros(kept, dtype=torch.int32))
        self.register_buffer("error_weight", torch.full((kept,), _LEAST_WEIGHT, dtype=torch.int32))
        self.update()

    def densities(self) -> dict[str, TwoQuantisers]:
        """One family for all channels."""
        return super().densities() | {"latent": self.quantisers}

    def estimate(self, deviation: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """Rate under the integer tables."""
        symbols, shifted = self.quantise(deviation)
        tables = self._tables_of(shifted), self.tables("latent")
        bits = self.quantisers.bits(symbols, *tables).sum(-1)
        bits = bits.where(deviation.isfinite().all(-1), torch.nan)  # integers know no such thing
        return self.reconstruct(values_of(symbols, shifted)), bits

    def encode(
        self, coder: Encoder, deviation: Tensor, known: Known, mask: Tensor, past: Past | None
    ) -> list[Tensor]:
        """Channels in order, tokens within a channel: all tokens of a channel are read at once."""
        symbols, shifted = self.quantise(deviation)
        indexes = self._tables_of(shifted)
        if not mask.all():
            indexes.masked_fill_(~mask, -1)
        coder.put(symbols.mT, indexes.mT, self.tables("latent"))
        return [symbols]

    def decode(
        self, coder: Decoder, known: Known, mask: Tensor, past: Past | None
    ) -> tuple[Tensor, list[Tensor]]:
        """See TransformCodec."""
        # All on the processor, where the coder is: there is little to compute a channel.
        there, first = mask[..., 0].cpu(), self.scale_index.cpu()
        padded, tables = not there.all(), self.tables("latent").cpu()
        shape = (len(there), self.kept, there.shape[1])
        symbols, shifted = (torch.empty(shape, dtype=torch.int32) for _ in range(2))
        state = State.first(there.int())
        for channel in range(self.kept):
            indexes = torch.add(first[channel], state.a, alpha=SCALES)
            if padded:
                indexes.masked_fill_(~there, -1)
            found = coder.pop(indexes, tables)
            symbols[:, channel], shifted[:, channel] = found, state.a
            state = state.after(found)
        symbols, shifted = (part.mT.to(mask.device) for part in (symbols, shifted))
        return self.reconstruct(values_of(symbols, shifted)), [symbols]

    def quantise(self, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols of deviations (…, channels), and which quantiser each belongs to, (…, kept).

        Both int32. Every machine finds the same: the search is in integers, of latents that float64
        has rounded to a sixteenth of a step.
        """
        tokens, errors = deviation.flatten(0, -2), self.float32_errors()
        both = torch.stack([self.scale_index, self.scale_index + SCALES]).long()
        costs, found = table_costs(self.tables("latent"))[both], []
        for part in tokens.split(_TOGETHER):
            grid = part.new_full((len(part), 1), 1 / _GRID)
            latents = self.rounded_latent(part, grid, errors).clamp(-_FARTHEST, _FARTHEST)
            found.append(self._search(latents.T.to(torch.int32).contiguous(), costs))
        symbols, shifted = (torch.cat(parts, 1).T for parts in zip(*found, strict=True))
        shape = (*deviation.shape[:-1], self.kept)
        return symbols.reshape(shape), shifted.reshape(shape)

    def _search(self, latents: Tensor, table_costs: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols and quantisers of latents in sixteenths, all (kept, tokens) int32.

        `table_costs` (2, kept, magnitudes) of each quantiser's symbols.
        """
        size, weight = latents.abs(), self.error_weight[:, None]
        symbols = size.new_empty(len(size), 4, size.shape[1])
        costs = torch.empty_like(symbols)
        for branch in range(4):
            quantiser, parity = divmod(branch, 2)
            shift, own = 8 * quantiser, table_costs[quantiser]
            # The symbol of this parity whose value, 16 times it less the shift, is nearest.
            nearest = (size + (shift + 16 * (1 - parity))) // 32 * 2 + parity
            nearest.clamp_min_(2 - parity)
            bits = own.gather(1, nearest.clamp(max=own.shape[1] - 1).long())
            error = (size + shift).sub_(nearest, alpha=16)
            symbols[:, branch], costs[:, branch] = nearest, error.square_().mul_(weight).add_(bits)
        zero = size.clamp(max=_ZERO_REACH).square_().mul_(weight)
        for even in (0, 2):
            cost = zero + table_costs[even // 2, :, :1]
            symbols[:, even].masked_fill_(cost <= costs[:, even], 0)
            torch.minimum(costs[:, even], cost, out=costs[:, even])
        branches = cheapest_path(costs)
        chosen = symbols.gather(1, branches[:, None])[:, 0]
        return torch.where(latents < 0, -chosen, chosen), (branches >> 1).to(torch.int32)

    def scales(self) -> Tensor:
        """The standard deviation of each channel in steps, (kept,) float64."""
        return table_scales().to(self.scale_index.device)[self.scale_index.long()]

    def _tables_of(self, shifted: Tensor) -> Tensor:
        """The table of each symbol; shifted (…, kept)."""
        return torch.add(self.scale_index, shifted, alpha=SCALES)

    def start_from(self, klt: Klt) -> None:
        """Transform and tables as the closed form has them, at longer steps."""
        super().start_from(klt)
        with torch.no_grad():
            self.analysis /= _STEP
            self.synthesis *= _STEP
        self.scale_index.copy_(scale_indexes(klt.scales() / _STEP))

    @torch.no_grad()
    def fit(self, deviation: Tensor, sensitivity: Tensor, rate_weight: float) -> None:
        """Find weights, tables and lengths at λ = `rate_weight` (nats a bit); before, start_from.

        `deviation` (samples, channels) of ordinary tokens; `sensitivity` (channels, channels).
        """
        weights = self.squared_steps(sensitivity) / (2 * rate_weight) * BIT / _GRID**2
        self.error_weight.copy_(weights.round().clamp(_LEAST_WEIGHT, _MOST_WEIGHT))
        for _ in range(_ROUNDS):
            symbols, shifted = self.quantise(deviation)
            self.quantisers.count(symbols.abs(), self._tables_of(shifted))
            self.update()
        decoded, latents = values_of(*self.quantise(deviation)), self.latent(deviation)
        along = (latents * decoded).sum(0)
        longer = torch.where(along > 0, latents.square().sum(0) / along, 1)
        self.synthesis *= longer.clamp(1, _LONGEST)
