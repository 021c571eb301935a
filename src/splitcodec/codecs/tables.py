"""A codec's densities and the integer coding tables that are made of them.

A codec names what its symbols are coded under in `densities`. The tables of each are buffers under
its name: saved with the codec, so that every machine codes under the very same integers.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from splitcodec.codecs.base import Codec
from splitcodec.coding import entropy


class CodecWithTables(Codec):
    """A codec whose symbols are coded under tables of its densities."""

    def densities(self) -> dict[str, nn.Module]:
        """What the symbols are coded under, by the name of its tables; each has `tables()`,
        `penalty()` and parameters."""
        raise NotImplementedError

    def priors(self) -> list[nn.Parameter]:
        """The parameters of the densities, which learn faster than networks."""
        return [p for density in self.densities().values() for p in density.parameters()]

    def penalty(self) -> Tensor:
        """What the densities add to the training loss."""
        return sum(density.penalty() for density in self.densities().values())

    def update(self) -> None:
        """Rebuild the coding tables after training; call before saving or coding."""
        for name, density in self.densities().items():
            tables = density.tables()
            for part in fields(tables):
                tensor = getattr(tables, part.name).to(self.device)
                self.register_buffer(f"{name}_{part.name}", tensor)

    def tables(self, name: str) -> entropy.Tables:
        """Coding tables kept under `name`."""
        parts = {f.name: getattr(self, f"{name}_{f.name}") for f in fields(entropy.Tables)}
        return entropy.Tables(**parts)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Tables come in the size in which they were saved."""
        for name in self.densities():
            keys = [f"{name}_{part.name}" for part in fields(entropy.Tables)]
            for key in state.keys() & keys:
                self.register_buffer(key, torch.empty_like(state[key]))
        super()._load_from_state_dict(state, prefix, *rest)
