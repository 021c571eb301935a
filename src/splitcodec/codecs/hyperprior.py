"""The paper's simplest codec: a hyper-prior predicts mean and scale of every symbol.

A causal transformer maps the latent to 24 side values a token, W, which are rounded and coded
under a deep factorised density; a second causal transformer maps W to mean and scale of a
discretised Gaussian for the latent (de Andrade et al. 2026, after Ballé et al. 2018 and Minnen et
al. 2018). In frozen mode the quantiser sits behind a transform, which starts as the KLT's.

Decoding must find the encoder's tables again, so coding runs the synthesis network in float64:
machines then differ by about 1e-15, far below the spacing of the tables, and a checksum turns the
improbable rest into an error.
"""

import copy
import math

import torch
from torch import Tensor, nn

from splitcodec.activations.store import mask_of
from splitcodec.codecs.base import Estimate
from splitcodec.codecs.checksum import seal, trim, unseal
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.networks import CausalNetwork
from splitcodec.codecs.transform import TransformCodec
from splitcodec.coding import entropy
from splitcodec.coding.framing import join, split
from splitcodec.densities import gaussian
from splitcodec.densities.factorised import DeepFactorised

_CLIP = 8.0


class Hyperprior(TransformCodec):
    """u = A (y − μ); W from u; u rounded about its predicted mean, under its predicted scale."""

    hyperparameters: HyperpriorHyperparameters

    def __init__(
        self, name: str, channels: int, hyperparameters: HyperpriorHyperparameters, kept: int = 0
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept)
        size = hyperparameters
        inner = (size.width, size.layers, size.heads)
        self.analysis.requires_grad_()
        self.synthesis.requires_grad_()
        self.log_scale = nn.Parameter(torch.zeros(kept))
        self.side_analysis = CausalNetwork(kept, size.side_channels, *inner)
        self.side_synthesis = CausalNetwork(size.side_channels, 2 * kept, *inner, zero=True)
        self.side_density = DeepFactorised(size.side_channels, spread=1.0)
        self.register_tables("side", self.side_density.tables())

    def start_from(self, klt: Klt) -> None:
        """Take transform and scales from the closed-form codec of the same λ."""
        with torch.no_grad():
            for name in ("mean", "first_mean", "analysis", "synthesis"):
                getattr(self, name).copy_(getattr(klt, name))
            self.log_scale.copy_(gaussian.table_scales()[klt.scale_index.long()].log())

    def priors(self) -> list[nn.Parameter]:
        """The parameters of densities and scales, which learn faster than networks."""
        return [self.log_scale, *self.side_density.parameters()]

    def update(self) -> None:
        """Rebuild the side tables after training; call before saving or coding."""
        self.register_tables("side", self.side_density.tables())

    def forward(self, representation: Tensor, lengths: Tensor) -> Estimate:
        """In training, noise stands for rounding in the rate and the gradient passes rounding
        in the reconstruction (Minnen and Singh 2020); in evaluation both are rounded."""
        mask = mask_of(lengths, representation.shape[1])
        latent = self.latent(representation)
        side = self._noisy(self._side(latent))
        mean, log_scale = self._parameters_from(self.side_synthesis, side)
        residual = latent - mean
        rate = gaussian.bits(self._noisy(residual), log_scale.exp()).sum(-1)
        rate = rate + self.side_density.bits(side).sum(-1)
        rounded = residual + (residual.round() - residual).detach()
        return Estimate(self.reconstruct(mean + rounded, mask), rate * mask)

    @torch.no_grad()
    def compress(self, representation: Tensor, lengths: Tensor) -> list[bytes]:
        """One stream a sequence: checksum, side stream, main stream."""
        mask = mask_of(lengths.to(representation.device), representation.shape[1])[..., None]
        latent = self.latent(representation)
        side = (self._side(latent).round() * mask).to(torch.int32)
        mean, indexes = self._coding_parameters(side)
        symbols = ((latent.double() - mean).round() * mask).to(torch.int32)
        sides = self._code(side, self._side_indexes(mask), "side")
        mains = self._code(symbols, torch.where(mask, indexes, -1), "gaussian")
        bodies = map(join, sides, mains)
        return [seal(*row) for row in zip(bodies, *trim(lengths, side, symbols), strict=True)]

    @torch.no_grad()
    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """Side values, then tables from them, then the latent."""
        mask = mask_of(lengths.to(self.mean.device), int(lengths.max()))[..., None]
        bodies, checksums = unseal(streams)
        side_indexes = self._side_indexes(mask)
        sides, mains = zip(*map(split, bodies), strict=True)
        side = self._decode(list(sides), side_indexes, "side")
        mean, indexes = self._coding_parameters(side)
        indexes = torch.where(mask, indexes, -1)
        symbols = self._decode(list(mains), indexes, "gaussian")
        checksums.check(*trim(lengths, side, symbols))
        latent = (mean + symbols).float()
        return self.reconstruct(latent, mask[..., 0])

    def _noisy(self, values: Tensor) -> Tensor:
        """Values plus uniform noise in training, rounded values otherwise."""
        return values + torch.rand_like(values) - 0.5 if self.training else values.round()

    def _side(self, latent: Tensor) -> Tensor:
        """Side values before rounding, (batch, tokens, side)."""
        return self.side_analysis((latent / self.log_scale.exp()).clamp(-_CLIP, _CLIP))

    def _parameters_from(self, network: nn.Module, side: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the scale of each latent, (batch, tokens, kept) each."""
        mean, log_ratio = network(side).chunk(2, dim=-1)
        low, high = math.log(gaussian.LOWEST_SCALE), math.log(gaussian.HIGHEST_SCALE)
        return mean, (self.log_scale + log_ratio).clamp(low, high)

    def _coding_parameters(self, side: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (float64) and coding table (int32) of each latent, from integer side values."""
        network = copy.deepcopy(self.side_synthesis).double()
        mean, log_scale = self._parameters_from(network, side.double())
        return mean, gaussian.scale_indexes(log_scale.double().exp())

    def _side_indexes(self, mask: Tensor) -> Tensor:
        channels = torch.arange(
            self.hyperparameters.side_channels, dtype=torch.int32, device=mask.device
        )
        return torch.where(mask, channels, -1)

    def _code(self, symbols: Tensor, indexes: Tensor, name: str) -> list[bytes]:
        return entropy.encode(symbols.flatten(1), indexes.flatten(1), self.tables(name))

    def _decode(self, streams: list[bytes], indexes: Tensor, name: str) -> Tensor:
        flat = entropy.decode(streams, indexes.flatten(1), self.tables(name))
        return flat.view(indexes.shape)
