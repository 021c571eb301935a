"""Keys and values of a part of a model."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig


class PartCache(DynamicCache):
    """Keys and values of the blocks of one part, of which block `first` is the first."""

    def __init__(self, config: PretrainedConfig, first: int) -> None:
        super().__init__(config=config)
        # The library asks its first layer how many tokens there are.
        self.layers = self.layers[first:]
        self._first = first

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """See DynamicCache; blocks keep their numbers in the whole model."""
        return super().update(key_states, value_states, layer_idx - self._first, *rest, **more)
