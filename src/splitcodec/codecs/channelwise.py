"""Codecs that code each channel of the latent under a table of its own, the same at every token."""

import torch
from torch import Tensor

from splitcodec.activations.store import mask_of
from splitcodec.codecs.checksum import seal, trim, unseal
from splitcodec.codecs.transform import TransformCodec


class ChannelwiseCodec(TransformCodec):
    """u = A (y − μ) rounded; a subclass has one density, and says which table a channel has."""

    def table_of_channel(self) -> Tensor:
        """The index of each channel's table, (kept,) int32."""
        raise NotImplementedError

    @torch.no_grad()
    def compress(self, representation: Tensor, lengths: Tensor) -> list[bytes]:
        """One stream a sequence, tokens in order, channels within a token."""
        mask = mask_of(lengths.to(representation.device), representation.shape[1])[..., None]
        symbols = (self.latent(representation).round() * mask).to(torch.int32)
        indexes = torch.where(mask, self.table_of_channel(), -1)
        (table,) = self.densities()
        streams = self.encode_symbols(symbols, indexes, table)
        return [seal(*row) for row in zip(streams, *trim(lengths, symbols), strict=True)]

    @torch.no_grad()
    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """Exactly the reconstruction of forward()."""
        mask = mask_of(lengths.to(self.mean.device), int(lengths.max()))[..., None]
        indexes = torch.where(mask, self.table_of_channel(), -1)
        (table,) = self.densities()
        bodies, checksums = unseal(streams)
        symbols = self.decode_symbols(bodies, indexes, table)
        checksums.check(*trim(lengths, symbols))
        return self.reconstruct(symbols.float(), mask[..., 0])
