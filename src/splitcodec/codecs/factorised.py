"""The codec without side information: every channel under a learned density of its own.

Ballé et al. 2018, the factorised-prior model, on the KLT's transform. What it loses against a
hyper-prior is what that learns about dependencies between channels and tokens.
"""

import torch
from torch import Tensor

from splitcodec.codecs.channelwise import ChannelwiseCodec
from splitcodec.codecs.hyperparameters import FactorisedHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import Known
from splitcodec.codecs.rounding import straight_through
from splitcodec.codecs.transform import CHANNELWISE
from splitcodec.densities.channelwise import ChannelwiseDensity, logistic_scale


class Factorised(ChannelwiseCodec):
    """u = A (y − μ) rounded, each channel under its own density."""

    hyperparameters: FactorisedHyperparameters

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: FactorisedHyperparameters,
        kept: int = 0,
        vocabulary: int = 0,
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, vocabulary)
        for matrix in self.linear_maps():
            matrix.requires_grad_()
        self.latent_density = CHANNELWISE[hyperparameters.density](kept)
        self.update()

    def densities(self) -> dict[str, ChannelwiseDensity]:
        """One, with a shape for each channel."""
        return super().densities() | {"latent": self.latent_density}

    def table_of_channel(self) -> Tensor:
        """Each channel has its own."""
        return torch.arange(self.kept, dtype=torch.int32, device=self.mean.device)

    def start_from(self, klt: Klt) -> None:
        """Transform and spread of each channel as the closed form has them."""
        super().start_from(klt)
        self.latent_density.initialise(logistic_scale(klt.scales()))

    def estimate(self, deviation: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """See TransformCodec."""
        latent = self.latent(deviation)
        rate = self.latent_density.bits(self.noisy(latent)).sum(-1)
        return self.reconstruct(straight_through(latent)), rate
