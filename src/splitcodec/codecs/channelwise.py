"""Codecs that code each channel of the latent under a table of its own, the same at every token."""

import torch
from torch import Tensor

from splitcodec.codecs.transform import Past, TransformCodec
from splitcodec.coding.entropy import Decoder, Encoder


class ChannelwiseCodec(TransformCodec):
    """u = A (y − μ) rounded; a subclass has a density `latent`, and says a channel's table."""

    def table_of_channel(self) -> Tensor:
        """The index of each channel's table, (kept,) int32."""
        raise NotImplementedError

    def encode(
        self, coder: Encoder, deviation: Tensor, offsets: Tensor, mask: Tensor, past: Past | None
    ) -> list[Tensor]:
        """Tokens in order, channels within a token."""
        latent = self.latent(deviation)
        symbols, doubtful = latent.round(), self.doubtful(deviation, latent)
        if doubtful.any():
            exact = self.exact().latent(deviation[doubtful].double())
            symbols[doubtful] = exact.round_().to(symbols)
        symbols = symbols.to(torch.int32)
        coder.put(symbols, self._indexes(mask), self.tables("latent"))
        return [symbols]

    def decode(
        self, coder: Decoder, offsets: Tensor, mask: Tensor, past: Past | None
    ) -> tuple[Tensor, list[Tensor]]:
        """See TransformCodec."""
        symbols = coder.pop(self._indexes(mask), self.tables("latent"))
        return self.reconstruct(symbols.to(self.gain).mul_(self.gain)), [symbols]

    def _indexes(self, mask: Tensor) -> Tensor:
        return torch.where(mask, self.table_of_channel(), -1)
