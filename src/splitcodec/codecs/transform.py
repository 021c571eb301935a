"""What the codecs that quantise in a transformed space share: mean, transform, sinks.

latent u = A (y − μ), in units of the quantiser's step; reconstruction ŷ = B û + μ. A keeps only
the channels that carry bits, so A is (kept, channels) and B (channels, kept).

Massive activations. From the middle of a model on, the first token of a sequence (and rarely
another) is a *sink* thousands of times larger than the rest. The first position therefore has a
mean of its own, which with a constant start token leaves nothing to code; any other sink simply
falls outside the coding tables, where the coder escapes: its symbols stay exact, though the
reconstruction gain of a coarsely coded channel shrinks it like everything else.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from splitcodec.codecs.base import Codec
from splitcodec.codecs.hyperparameters import Hyperparameters
from splitcodec.coding import entropy
from splitcodec.densities import gaussian


class TransformCodec(Codec):
    """A codec with an affine transform before and after the quantiser."""

    def __init__(
        self, name: str, channels: int, hyperparameters: Hyperparameters, kept: int
    ) -> None:
        super().__init__(name, channels, hyperparameters)
        self.kept = kept
        self.register_tables("gaussian", gaussian.tables())
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

    def register_tables(self, name: str, tables: entropy.Tables) -> None:
        """Keep coding tables as buffers, so that they are saved with the codec."""
        for field in fields(tables):
            self.register_buffer(f"{name}_{field.name}", getattr(tables, field.name))

    def tables(self, name: str) -> entropy.Tables:
        """Coding tables kept under `name`."""
        parts = {f.name: getattr(self, f"{name}_{f.name}") for f in fields(entropy.Tables)}
        return entropy.Tables(**parts)
