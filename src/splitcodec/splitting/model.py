"""The split model: any causal language model of transformers, cut between two blocks.

`splitting.images` has the same for image classifiers and encoders, `splitting.loading` tells which.

Front and back are the model's own forward run over part of its block list, so masks, rotations
and caches stay those of the library, and the split forward equals the unsplit forward exactly.
Weights are shared, nothing is copied. Shapes: tokens (batch, tokens), representation
(batch, tokens, channels), logits (batch, tokens, vocabulary).

A part can run token by token: a `PartCache` of its own keeps the keys and values of its blocks, and
a call with it continues where the last one ended.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from splitcodec.errors import InputError, SettingsError, reason_of
from splitcodec.pretrained import read_pretrained
from splitcodec.splitting.layouts import layout_of

if TYPE_CHECKING:  # transformers takes two seconds to import, which only those pay who load a model
    from transformers import PretrainedConfig

    from splitcodec.splitting.cache import PartCache


class _NoPositions(nn.Module):
    """Stands in for a position embedding where positions have been added already."""

    def forward(self, positions: Tensor, *_: Any, **__: Any) -> Tensor:
        return positions.new_zeros(1)


class SplitModel(nn.Module):
    """A causal language model that can be run in two parts, split before any block.

    `predicts` says what comes out: logits of a label, or an encoder's features.
    """

    predicts: Literal["labels", "features"] = "labels"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()
        self._layout = layout_of(model.base_model)

    @classmethod
    def load(cls, directory: Path, dtype: str = "float32", device: str = "cpu") -> "SplitModel":
        """Load from a directory in Hugging Face format; raises InputError if it cannot be."""
        with _reading(directory):
            model = cls._read(directory, getattr(torch, dtype))
        return cls(model.requires_grad_(False).to(device))

    @classmethod
    def _read(cls, directory: Path, dtype: torch.dtype) -> nn.Module:
        from transformers import AutoModelForCausalLM

        return read_pretrained(AutoModelForCausalLM, directory, dtype=dtype, use_safetensors=True)

    @property
    def _decoder(self) -> nn.Module:
        """The module that has blocks and norm."""
        base, inner = self.model.base_model, self._layout.decoder
        return getattr(base, inner) if inner else base

    @property
    def _all_blocks(self) -> nn.ModuleList:
        return getattr(self._decoder, self._layout.blocks)

    @property
    def blocks(self) -> int:
        """Number of transformer blocks N; a split at N leaves only final norm and head behind."""
        return len(self._all_blocks)

    @property
    def norm(self) -> nn.Module:
        """The normalisation between the last block and the head."""
        return getattr(self._decoder, self._layout.norm)

    def back_blocks(self, split: int) -> list[nn.Module]:
        """The blocks from `split` on."""
        return list(self._all_blocks)[split:]

    @property
    def tail(self) -> list[nn.Module]:
        """What comes after the last block."""
        return [self.norm, self.model.get_output_embeddings()]

    @property
    def channels(self) -> int:
        """Channels of the representation."""
        return self.model.config.hidden_size

    def channels_at(self, split: int) -> int:
        """Channels of the representation at one split."""
        return self.channels

    @property
    def meaning(self) -> dict[str, Any]:
        """What a store must say of how its tokens were made from the model's representation."""
        return {}

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.model.config.vocab_size

    @property
    def context(self) -> int | None:
        """Tokens it can read at once, where its positions end."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def embedding(self) -> Tensor:
        """The head's weights (vocabulary, channels): what the back knows of every token id."""
        return self.model.get_output_embeddings().weight.detach()

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    def check_split(self, split: int) -> None:
        """Raise SettingsError unless 1 ≤ split ≤ N."""
        if not 1 <= split <= self.blocks:
            raise SettingsError(
                f"split {split} is out of range: this model has {self.blocks} blocks, "
                f"so a split is between 1 and {self.blocks}"
            )

    def cache(self, first: int = 0) -> "PartCache":
        """An empty cache for a part that starts with block `first`: 0 for a front, else a split."""
        from splitcodec.splitting.cache import PartCache

        return PartCache(self.model.config, first)

    def front(self, tokens: Tensor, split: int, cache: "PartCache | None" = None) -> Tensor:
        """The representation between block split-1 and block split."""
        return self.fronts(tokens, [split], cache)[split]

    def fronts(
        self, tokens: Tensor, splits: Sequence[int], cache: "PartCache | None" = None
    ) -> dict[int, Tensor]:
        """The representations at several splits, from one forward pass."""
        for split in splits:
            self.check_split(split)
        if int(tokens.max()) >= self.vocabulary or int(tokens.min()) < 0:
            raise InputError("tokens outside the model's vocabulary: tokenised for another model?")
        with self._kept(splits) as found:
            self._run(0, max(splits), cache, input_ids=tokens.to(self.device))
        return found

    def middle(self, representation: Tensor, split: int, later: int) -> Tensor:
        """The representation at split `later` that follows from the one at `split`."""
        self.check_split(split)
        self.check_split(later)
        return self._run(split, later, inputs_embeds=self._cast(representation))

    def final_states(
        self, representation: Tensor, split: int, cache: "PartCache | None" = None
    ) -> Tensor:
        """What the head reads, (batch, tokens, channels): the back up to and with the norm."""
        self.check_split(split)
        return self._run(split, None, cache, inputs_embeds=self._cast(representation))

    def head(self, states: Tensor) -> Tensor:
        """Logits (…, vocabulary) of final states (…, channels)."""
        return self._capped(self.model.get_output_embeddings()(states))

    def head_in_parts(self, states: Tensor, size: int) -> Iterator[Tensor]:
        """The same logits, `size` entries of the vocabulary at a time."""
        layer = self.model.get_output_embeddings()
        if type(layer) is not nn.Linear:  # adapters and the like add to what the weights give
            yield from self.head(states).split(size, -1)
            return
        biases = [None] * len(layer.weight) if layer.bias is None else layer.bias.split(size)
        for weight, bias in zip(layer.weight.split(size), biases, strict=False):
            yield self._capped(functional.linear(states, weight, bias))

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The float32 logit of one token id for each of `states` (tokens, channels)."""
        layer = self.model.get_output_embeddings()
        if type(layer) is not nn.Linear:
            return self.head(states).gather(-1, tokens[:, None])[:, 0].float()
        logits = torch.linalg.vecdot(states, layer.weight[tokens])
        return self._capped(logits if layer.bias is None else logits + layer.bias[tokens]).float()

    def _capped(self, logits: Tensor) -> Tensor:
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def back(self, representation: Tensor, split: int, cache: "PartCache | None" = None) -> Tensor:
        """The logits that follow from a representation at `split`."""
        return self.head(self.final_states(representation, split, cache))

    def compared(self, mask: Tensor) -> Tensor:
        """Which final states are compared with the uncoded model's: (batch, predictions) bool."""
        return mask

    def labelled(self, mask: Tensor) -> Tensor:
        """Which final states predict something that the data tell: (batch, predictions) bool."""
        return functional.pad(mask[:, 1:], (0, 1))

    def labels(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """What those final states should predict, (predictions,); -1 where nobody knows."""
        return tokens[:, 1:][mask[:, 1:]]

    @contextmanager
    def _kept(self, splits: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collects the representations at `splits` of what runs inside."""
        found: dict[int, Tensor] = {}

        def keep(split: int) -> Callable:
            def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
                found[split] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self._all_blocks[k - 1].register_forward_hook(keep(k)) for k in splits]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def _cast(self, representation: Tensor) -> Tensor:
        return representation.to(self.device, self.dtype)

    def _run(
        self, first: int, last: int | None, cache: "PartCache | None" = None, **inputs: Tensor
    ) -> Tensor:
        """Run blocks first … last-1 of the base model; without `last`, to the end with the norm.

        A part that starts after the first block adds no positions.
        """
        layout = self._layout
        parts: dict[str, nn.Module] = {layout.blocks: self._all_blocks[first:last]}
        if last is not None:
            parts[layout.norm] = nn.Identity()
        if first > 0 and layout.positions:
            parts[layout.positions] = _NoPositions()
        part = with_parts(self._decoder, parts)
        part.config = _config_of_part(part.config, first, last)
        keeps = cache is not None and len(cache) > 0
        return part(
            **inputs, past_key_values=cache if keeps else None, use_cache=keeps
        ).last_hidden_state


def with_parts(model: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """A shallow copy of `model` in which the modules at some paths are others."""
    copied = copy.copy(model)
    copied._modules = dict(model._modules)
    for path, part in parts.items():
        name, _, rest = path.partition(".")
        copied._modules[name] = with_parts(copied._modules[name], {rest: part}) if rest else part
    return copied


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turns what goes wrong while a model is read into InputError."""
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory} holds no model (no config.json); fetch it first")
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        raise InputError(f"cannot load the model in {directory}: {reason_of(error)}") from None
    except SafetensorError as error:
        raise InputError(
            f"{directory} is damaged ({reason_of(error)}); delete it and fetch again"
        ) from None


def _config_of_part(config: "PretrainedConfig", first: int, last: int | None) -> "PretrainedConfig":
    """What the model asks about its blocks by number is about those of the part."""
    if not getattr(config, "layer_types", None):
        return config
    part = copy.copy(config)
    part.layer_types = config.layer_types[first:last]
    return part


def check_context(model: SplitModel, tokens: int) -> None:
    """Raise SettingsError when sequences are longer than the model's learned positions reach."""
    if model.context is not None and tokens > model.context:
        raise SettingsError(
            f"sequences of {tokens} tokens exceed the model's context of {model.context}; "
            "lower text.sequence_length"
        )
