"""The closed form with trellis-coded quantisation: denser than rounding, for no bits.

At the rates at which representations are coded, a uniform quantiser of each channel needs up to a
quarter of a bit a value more than rate–distortion theory asks; a trellis over the channels of a
token gets half of that back, and more where the rate is high (`codecs.search`).
"""

import torch
from torch import Tensor

from splitcodec.codecs.hyperparameters import TrellisHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import Known
from splitcodec.codecs.networks import Past
from splitcodec.codecs.search import (
    GRID,
    LEAST_WEIGHT,
    ROUNDS,
    STEP,
    cheapest_symbols,
    error_weights,
    lengthening,
    pop_symbols,
)
from splitcodec.codecs.transform import TransformCodec
from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.densities.location_scale import SCALES, scale_indexes, table_scales
from splitcodec.densities.two_quantisers import TwoQuantisers, values_of

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
        self.register_buffer("error_weight", torch.full((kept,), LEAST_WEIGHT, dtype=torch.int32))
        self.update()

    @property
    def has_trellis(self) -> bool:
        """See TransformCodec."""
        return True

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
        first = self.scale_index.cpu()[:, None, None]
        found = pop_symbols(coder, first, mask[..., 0].cpu(), self.tables("latent").cpu())
        symbols, shifted = (part.movedim(0, -1).to(mask.device) for part in found)
        return self.reconstruct(values_of(symbols, shifted)), [symbols]

    def quantise(self, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols of deviations (…, channels), and which quantiser each belongs to, (…, kept).

        Both int32. Every machine finds the same: the search is in integers, of latents that float64
        has rounded to a sixteenth of a step.
        """
        tokens, errors = deviation.flatten(0, -2), self.float32_errors()
        costs, found = self.quantisers.costs(self.tables("latent")), []
        for part in tokens.split(_TOGETHER):
            grid = part.new_full((len(part), 1), 1 / GRID)
            latents, tables = self.rounded_latent(part, grid, errors), self.scale_index[None]
            found.append(cheapest_symbols(latents, self.error_weight, tables, costs))
        symbols, shifted = (torch.cat(parts) for parts in zip(*found, strict=True))
        shape = (*deviation.shape[:-1], self.kept)
        return symbols.reshape(shape), shifted.reshape(shape)

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
            self.analysis /= STEP
            self.synthesis *= STEP
        self.scale_index.copy_(scale_indexes(klt.scales() / STEP))

    @torch.no_grad()
    def fit(self, deviation: Tensor, sensitivity: Tensor, rate_weight: float) -> Tensor:
        """Find weights, tables and lengths at λ = `rate_weight` (nats a bit); before, start_from.

        `deviation` (samples, channels) of ordinary tokens; `sensitivity` (channels, channels).
        Returns by how much channels are decoded longer for it, (kept,).
        """
        self.error_weight.copy_(error_weights(self.squared_steps(sensitivity), rate_weight))
        for _ in range(ROUNDS):
            symbols, shifted = self.quantise(deviation)
            self.quantisers.count(symbols.abs(), self._tables_of(shifted))
            self.update()
        decoded, latents = values_of(*self.quantise(deviation)), self.latent(deviation)
        longer = lengthening(latents.square().sum(0), (latents * decoded).sum(0))
        self.synthesis *= longer
        return longer
