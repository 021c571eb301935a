"""What the codecs that quantise in a transformed space share: mean, transform, sinks.

latent u = A (y − μ), in units of the quantiser's step; reconstruction ŷ = B û + μ. A keeps only
the channels that carry bits, so A is (kept, channels) and B (channels, kept).

Massive activations. From the middle of a model on, the first token of a sequence (and rarely
another) is a *sink* thousands of times larger than the rest. The first position therefore has a
mean of its own, which with a constant start token leaves nothing to code; any other sink simply
falls outside the coding tables, where the coder escapes: its symbols stay exact, though the
reconstruction gain of a coarsely coded channel shrinks it like everything else.

Symbols are coded by densities: a codec names them in `densities`, and each one's integer tables are
kept, and saved, under its name.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from splitcodec.codecs.base import Codec
from splitcodec.codecs.hyperparameters import Hyperparameters
from splitcodec.coding import entropy
from splitcodec.densities.channelwise import ChannelwiseDensity
from splitcodec.densities.factorised import DeepFactorised
from splitcodec.densities.fourier import FourierBasis
from splitcodec.densities.location_scale import LocationScale

CHANNELWISE: dict[str, type[ChannelwiseDensity]] = {
    "factorised": DeepFactorised,
    "fourier": FourierBasis,
}
"""Densities with a shape a channel, by the names of the hyper-parameters."""


class TransformCodec(Codec):
    """A codec with an affine transform before and after the quantiser."""

    def __init__(
        self, name: str, channels: int, hyperparameters: Hyperparameters, kept: int
    ) -> None:
        super().__init__(name, channels, hyperparameters)
        self.kept = kept
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("first_mean", torch.zeros(channels))
        self.analysis = nn.Parameter(torch.zeros(kept, channels), requires_grad=False)
        self.synthesis = nn.Parameter(torch.zeros(channels, kept), requires_grad=False)

    def means(self, tokens: int) -> Tensor:
        """The mean at each position, (tokens, channels)."""
        return torch.cat([self.first_mean[None], self.mean.expand(tokens - 1, -1)])

    def latent(self, representation: Tensor) -> Tensor:
        """(batch, tokens, kept), in quantiser steps."""
        centred = representation - self.means(representation.shape[1])
        return centred @ self.analysis.T

    def reconstruct(self, latent: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, channels) from a quantised latent; zero where mask is false."""
        reconstruction = latent @ self.synthesis.T + self.means(latent.shape[1])
        return reconstruction * mask[..., None]

    @staticmethod
    def shape_of_state(state: dict[str, Tensor]) -> dict[str, Any]:
        """Constructor arguments that only a saved state tells."""
        return {"kept": len(state["analysis"])}

    def densities(self) -> dict[str, ChannelwiseDensity | LocationScale]:
        """What the symbols are coded under, by the name of its tables."""
        raise NotImplementedError

    def priors(self) -> list[nn.Parameter]:
        """The parameters of the densities, which learn faster than networks."""
        return [p for density in self.densities().values() for p in density.parameters()]

    def penalty(self) -> Tensor:
        """What the densities add to the training loss."""
        return sum(density.penalty() for density in self.densities().values())

    def start_from(self, klt: "TransformCodec") -> None:
        """Take the transform of the closed-form codec of the same λ."""
        with torch.no_grad():
            for name in ("mean", "first_mean", "analysis", "synthesis"):
                getattr(self, name).copy_(getattr(klt, name))

    def update(self) -> None:
        """Rebuild the coding tables after training; call before saving or coding."""
        for name, density in self.densities().items():
            self._register_tables(name, density.tables())

    def noisy(self, values: Tensor) -> Tensor:
        """Values plus uniform noise in training, rounded values otherwise."""
        return values + torch.rand_like(values) - 0.5 if self.training else values.round()

    def encode_symbols(self, symbols: Tensor, indexes: Tensor, name: str) -> list[bytes]:
        """One stream a sequence; symbols and table indexes (batch, tokens, …) int32."""
        return entropy.encode(symbols.flatten(1), indexes.flatten(1), self.tables(name))

    def decode_symbols(self, streams: list[bytes], indexes: Tensor, name: str) -> Tensor:
        """The symbols at table indexes (batch, tokens, …), of the same shape."""
        flat = entropy.decode(streams, indexes.flatten(1), self.tables(name))
        return flat.view(indexes.shape)

    def tables(self, name: str) -> entropy.Tables:
        """Coding tables kept under `name`."""
        parts = {f.name: getattr(self, f"{name}_{f.name}") for f in fields(entropy.Tables)}
        return entropy.Tables(**parts)

    def _register_tables(self, name: str, tables: entropy.Tables) -> None:
        """Keep coding tables as buffers, so that they are saved with the codec."""
        for field in fields(tables):
            self.register_buffer(f"{name}_{field.name}", getattr(tables, field.name))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Tables come in the size in which they were saved."""
        for name in self.densities():
            keys = [f"{name}_{field.name}" for field in fields(entropy.Tables)]
            for key in state.keys() & keys:
                self.register_buffer(key, torch.empty_like(state[key]))
        super()._load_from_state_dict(state, prefix, *rest)


def straight_through(values: Tensor) -> Tensor:
    """Rounded values, whose gradient is that of the values."""
    return values + (values.round() - values).detach()
