"""Codecs that code each channel of the latent under a table of its own, the same at every token."""

import torch
from torch import Tensor

from splitcodec.codecs.transform import TransformCodec


class ChannelwiseCodec(TransformCodec):
    """u = A (y − μ) rounded; a subclass has a density `latent`, and says a channel's table."""

    def table_of_channel(self) -> Tensor:
        """The index of each channel's table, (kept,) int32."""
        raise NotImplementedError

    def encode(
        self, deviation: Tensor, offsets: Tensor, mask: Tensor
    ) -> tuple[list[bytes], list[Tensor]]:
        """Tokens in order, channels within a token."""
        symbols = (self.latent(deviation).round() * mask).to(torch.int32)
        return self.encode_symbols(symbols, self._indexes(mask), "latent"), [symbols]

    def decode(
        self, streams: list[bytes], offsets: Tensor, mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See TransformCodec."""
        symbols = self.decode_symbols(streams, self._indexes(mask), "latent")
        return self.reconstruct(self.gain * symbols), [symbols]

    def _indexes(self, mask: Tensor) -> Tensor:
        return torch.where(mask, self.table_of_channel(), -1)
