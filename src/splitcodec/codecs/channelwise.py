"""Codecs that code each channel of the latent under a table of its own, the same at every token."""

import torch
from torch import Tensor

from splitcodec.codecs.levels import Known, in_steps
from splitcodec.codecs.transform import Past, TransformCodec
from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.densities.location_scale import SCALES


class ChannelwiseCodec(TransformCodec):
    """u = A (y − μ) rounded; a subclass has a density `latent`, and says a channel's table."""

    def table_of_channel(self) -> Tensor:
        """The index of each channel's table, (kept,) int32."""
        raise NotImplementedError

    def encode(
        self, coder: Encoder, deviation: Tensor, known: Known, mask: Tensor, past: Past | None
    ) -> list[Tensor]:
        """Tokens in order, channels within a token."""
        latent = in_steps(self.latent(deviation), known.steps)
        symbols, doubtful = latent.round(), self.doubtful(deviation, latent, steps=known.steps)
        if doubtful.any():
            exact = self.exact().latent(deviation[doubtful].double())
            steps = known.rows(doubtful).steps
            symbols[doubtful] = in_steps(exact, steps).round_().to(symbols)
        symbols = symbols.to(torch.int32)
        coder.put(symbols, self._indexes(known, mask), self.tables("latent"))
        return [symbols]

    def decode(
        self, coder: Decoder, known: Known, mask: Tensor, past: Past | None
    ) -> tuple[Tensor, list[Tensor]]:
        """See TransformCodec."""
        symbols = coder.pop(self._indexes(known, mask), self.tables("latent"))
        increment = self.increment(symbols.to(self.gain), self.positions(known), known)
        return self.reconstruct(increment.float()), [symbols]

    def positions(self, known: Known) -> Tensor | None:
        """Where the scales of tokens at levels lie among the coding tables."""
        if known.levels is None:
            return None
        return (self.table_of_channel() - known.shift).clamp(0, SCALES - 1)

    def _indexes(self, known: Known, mask: Tensor) -> Tensor:
        positions = self.positions(known)
        table = self.table_of_channel() if positions is None else positions.to(torch.int32)
        return torch.where(mask, table, -1)
