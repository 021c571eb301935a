"""The split image model: a classifier or encoder of transformers, cut between two blocks or stages.

As with language models, front and back are the model's own forward run over part of its block list,
so the split forward equals the unsplit forward exactly; weights are shared. Shapes: pixels
(batch, 3, height, width), representation (batch, tokens, channels), final states
(batch, predictions, classes or channels): the logits of a classifier, one prediction an image, or
an encoder's features, one a token.

A feature map (batch, C, H, W) is cut into patches of p × p positions, each flattened into a token
(de Andrade et al. 2026): (batch, H/p · W/p, C·p²), row by row.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from splitcodec.errors import ArchitectureError, InputError, SettingsError
from splitcodec.files import read_json
from splitcodec.pretrained import read_pretrained
from splitcodec.splitting.layouts import ImageLayout
from splitcodec.splitting.model import SplitModel, with_parts

if TYPE_CHECKING:
    from splitcodec.splitting.cache import PartCache


class SplitImageModel(SplitModel):
    """An image classifier or encoder that can be run in two parts.

    `patch`: positions a side of a token, for models whose representation is a feature map.
    """

    _layout: ImageLayout

    def __init__(self, model: nn.Module, patch: int = 1) -> None:
        super().__init__(model)
        self.patch = patch
        self.predicts = "labels" if _classifies(type(model).__name__) else "features"
        if self.predicts == "features" and self._layout.maps:
            raise ArchitectureError(
                f"the features of a {type(model).__name__} are a map, not one a token; choose a "
                "classifier of its kind"
            )
        base = model.base_model
        self._prefix = "" if base is model else f"{model.base_model_prefix}."

    @classmethod
    def _read(cls, directory: Path, dtype: torch.dtype) -> nn.Module:
        from transformers import AutoModel, AutoModelForImageClassification

        from splitcodec.splitting import efficientnet_lite

        efficientnet_lite.register()
        names = read_json(directory / "config.json").get("architectures") or []
        kind = AutoModelForImageClassification if any(map(_classifies, names)) else AutoModel
        return read_pretrained(kind, directory, dtype=dtype, use_safetensors=True)

    @property
    def _all_blocks(self) -> nn.ModuleList:
        return self.model.base_model.get_submodule(self._layout.blocks)

    @property
    def tail(self) -> list[nn.Module]:
        """See SplitModel."""
        base, layout = self.model.base_model, self._layout
        front = {layout.embedding, layout.blocks.split(".")[0]}
        after = [module for name, module in base.named_children() if name not in front]
        if base is not self.model:
            after += [module for module in self.model.children() if module is not base]
        return after

    @property
    def vocabulary(self) -> int:
        """Token ids are unknown here."""
        return 0

    @property
    def embedding(self) -> Tensor:
        """No head has rows for token ids."""
        return torch.zeros(0, 0)

    def channels_at(self, split: int) -> int:
        """See SplitModel."""
        self.check_split(split)
        if not self._layout.maps:
            return self.channels
        return self.model.config.hidden_sizes[split - 1] * self.patch**2

    @property
    def meaning(self) -> dict[str, Any]:
        """See SplitModel."""
        return {"patch": self.patch}

    def cache(self, first: int = 0) -> "PartCache":
        """Images are not made piece by piece."""
        raise SettingsError("an image model has no cache: images do not come token by token")

    def fronts(
        self, tokens: Tensor, splits: Sequence[int], cache: "PartCache | None" = None
    ) -> dict[int, Tensor]:
        """The representations of pixels at several splits, from one forward pass."""
        for split in splits:
            self.check_split(split)
        if tokens.ndim != 4:
            raise InputError("this model reads images; the given data are of another kind")
        return self._states(self._cast(tokens), 0, splits)

    def middle(self, representation: Tensor, split: int, later: int) -> Tensor:
        """See SplitModel."""
        self.check_split(split)
        self.check_split(later)
        if split == later:
            return representation
        return self._states(self._inside(representation), split, [later])[later]

    def final_states(
        self, representation: Tensor, split: int, cache: "PartCache | None" = None
    ) -> Tensor:
        """The model's outputs, (batch, predictions, classes or channels)."""
        self.check_split(split)
        parts = self._parts(split, None)
        named = {self._prefix + path: part for path, part in parts.items()}
        output = with_parts(self.model, named)(pixel_values=self._inside(representation))
        return output.logits[:, None] if self.predicts == "labels" else output.last_hidden_state

    def head(self, states: Tensor) -> Tensor:
        """Final states are the outputs themselves."""
        return states

    def compared(self, mask: Tensor) -> Tensor:
        """See SplitModel."""
        return mask[:, :1] if self.predicts == "labels" else mask

    def labelled(self, mask: Tensor) -> Tensor:
        """See SplitModel."""
        return self.compared(mask)

    def labels(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The class of each image, which stands in the place of its token ids."""
        kept = self.compared(mask)
        return tokens[:, : kept.shape[1]][kept]

    def _states(self, inputs: Tensor, first: int, splits: Sequence[int]) -> dict[int, Tensor]:
        """Run blocks first … of the base model on what comes before block `first`."""
        part = with_parts(self.model.base_model, self._parts(first, max(splits)))
        with self._kept(splits) as found:
            part(pixel_values=inputs)
        return {split: self._outside(found[split], split) for split in splits}

    def _parts(self, first: int, last: int | None) -> dict[str, nn.Module]:
        """What stands in for embedding and blocks where only blocks first … last-1 run."""
        parts: dict[str, nn.Module] = {self._layout.blocks: self._all_blocks[first:last]}
        if first > 0:
            embedding = self.model.base_model.get_submodule(self._layout.embedding)
            parts[self._layout.embedding] = _passing(embedding)
        return parts

    def _outside(self, states: Tensor, split: int) -> Tensor:
        """Tokens of what a block gives."""
        if not self._layout.maps:
            return states
        height, width = states.shape[-2:]
        if height != width or height % self.patch:
            raise SettingsError(
                f"the feature map at split {split} is {height} × {width}; its sides must be equal "
                f"and a multiple of the model's patch, {self.patch}"
            )
        return nn.functional.unfold(states, self.patch, stride=self.patch).mT

    def _inside(self, representation: Tensor) -> Tensor:
        """What the next block takes."""
        states = self._cast(representation)
        if not self._layout.maps:
            return states
        side = math.isqrt(states.shape[1]) * self.patch
        return nn.functional.fold(states.mT, side, self.patch, stride=self.patch)


def _passing(embedding: nn.Module) -> nn.Module:
    """An embedding that gives back what it is given; models ask it for more than to be called."""
    passing = copy.copy(embedding)
    passing.forward = lambda states, *_, **__: states
    return passing


def _classifies(architecture: str) -> bool:
    return "ForImageClassification" in architecture
