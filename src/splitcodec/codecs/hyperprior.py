"""The paper's simplest codec: a hyper-prior alone predicts mean and scale of every symbol.

24 side values a token, and nothing else, tell mean and scale of the latent (de Andrade et al. 2026,
after Ballé et al. 2018 and Minnen et al. 2018), so all symbols of a sequence decode at once. In
frozen mode the quantiser sits behind a transform, which starts as the KLT's.
"""

import torch
from torch import Tensor

from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters
from splitcodec.densities.location_scale import scale_indexes


class Hyperprior(ConditionalCodec):
    """Mean and scale of each symbol from the side values of tokens ≤ t."""

    def __init__(
        self, name: str, channels: int, hyperparameters: HyperpriorHyperparameters, kept: int = 0
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, context=0)

    def predict(self, latent: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        return self.parameters_from(self.prediction(side))

    def quantise(self, latent: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        mean, indexes = self._coding_parameters(side)
        return (latent.double() - mean).round(), indexes

    def dequantise(self, streams: list[bytes], side: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See ConditionalCodec."""
        mean, indexes = self._coding_parameters(side)
        return mean, self.decode_symbols(streams, torch.where(mask, indexes, -1), "latent")

    def _coding_parameters(self, side: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (float64) and coding table (int32) of each latent, from integer side values."""
        mean, log_scale = self.parameters_from(self.exact_prediction()(side.double()))
        return mean, scale_indexes(log_scale.exp())
