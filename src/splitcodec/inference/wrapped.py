"""A causal language model whose representation goes through a trained codec.

`with_codec` wraps any model of transformers that can be split. A forward pass runs the front,
compresses the representation to bytes, decompresses them, and runs the back on the result: what
comes out is what a receiver of those bytes would compute. For inference; nothing learns.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from splitcodec.activations.store import mask_of
from splitcodec.codecs.base import Codec, load_changes
from splitcodec.codecs.registry import load_codec
from splitcodec.errors import InputError
from splitcodec.inputs.models import IDENTITY, read_identity
from splitcodec.splitting.changes import changed_model
from splitcodec.splitting.layouts import ImageLayout, layout_of
from splitcodec.splitting.model import SplitModel, check_context


@dataclass
class CodedOutput(ModelOutput):
    """Logits (batch, tokens, vocabulary) on the decoded representation, and what it cost.

    bits (batch,): of each sequence; tokens (batch,): how many it has, padding left out; loss: mean
    cross-entropy in nats, with labels.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    bits: Tensor | None = None
    tokens: Tensor | None = None


def with_codec(
    model: PreTrainedModel, codec: str | Path, coder: str | None = None, estimate: bool = False
) -> "CodedModel":
    """`model` with the codec of a folder that `splitcodec train` made, and with its own changes.

    `coder` is for codecs that have several. With `estimate`, nothing is turned into bytes: the
    reconstruction is the same up to rounding, and bits are the codec's estimate, which differs from
    the bytes by less than 1 % on sequences of hundreds of tokens. Raises InputError when codec and
    model do not fit. A model loaded from a directory of `fetch-model` is held against the hash in
    the codec; of others only the shape is known, which is warned of.
    """
    directory = Path(codec)
    loaded, meaning = load_codec(directory, coder)
    if isinstance(layout_of(model.base_model), ImageLayout):
        raise InputError(f"{type(model).__name__} reads images; with_codec is for models of text")
    original = SplitModel(model)
    known = Path(model.name_or_path, IDENTITY)
    checked = bool(model.name_or_path) and known.is_file()
    same = not checked or read_identity(known.parent)["model_hash"] == meaning["model_hash"]
    fits = loaded.channels == original.channels and 1 <= meaning["split"] <= original.blocks
    if not (fits and same):
        raise InputError(
            f"{directory} was trained for {meaning['model']} at split {meaning['split']}, of "
            f"{loaded.channels} channels, which this model is not"
        )
    if not checked:
        warnings.warn(
            f"whether this is the {meaning['model']} of {directory} cannot be told: it was not "
            "loaded from a directory of `splitcodec fetch-model`, so only its shape was checked",
            stacklevel=2,
        )
    loaded.attach(original.embedding.float().cpu())
    changed = changed_model(original, load_changes(directory, meaning))
    return CodedModel(changed, loaded, meaning["split"], estimate)


class CodedModel(nn.Module):
    """Called as its model is, `forward`; or in its two halves, `send` and `receive`.

    Tokens (batch, tokens) may be padded on either side, with an attention mask (batch, tokens) that
    says so; what is masked is neither computed nor sent, and its logits are zero.
    """

    def __init__(self, model: SplitModel, codec: Codec, split: int, estimate: bool = False) -> None:
        super().__init__()
        self.model, self.codec = model, codec
        self.split, self.estimate = split, estimate

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts the model; the codec stays in float32 and on the CPU, where it works."""
        self.model._apply(function, recurse)
        return self

    @property
    def config(self) -> object:
        """The model's configuration."""
        return self.model.model.config

    @property
    def device(self) -> torch.device:
        """Where the model lies; the codec works on the CPU."""
        return self.model.device

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> CodedOutput:
        """See CodedOutput; labels (batch, tokens) as in transformers: shifted here, -100 skips.

        As there, of the last `logits_to_keep` tokens only, if it is not 0.
        """
        tokens, lengths, places = _packed(input_ids, attention_mask)
        if self.estimate:
            found = self.codec(self._front(tokens, lengths), lengths, tokens)
            decoded, bits = found.reconstruction, found.bits.sum(-1)
        else:
            streams = self._compress(tokens, lengths)
            decoded = self.codec.decompress(streams, lengths)
            bits = torch.tensor([8.0 * len(stream) for stream in streams])
        packed = self.model.final_states(decoded, self.split)
        states = packed.new_zeros(*input_ids.shape, packed.shape[-1])
        states.scatter_(1, places.to(packed.device)[..., None].expand_as(packed), packed)
        logits = self.model.head(states[:, -logits_to_keep:])
        if attention_mask is not None:
            logits *= attention_mask[:, -logits_to_keep:].to(logits.device)[..., None] != 0
        loss = None
        if labels is not None:
            targets = labels[:, -logits_to_keep:][:, 1:].to(logits.device).flatten()
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets)
        return CodedOutput(loss=loss, logits=logits, bits=bits, tokens=lengths)

    @torch.no_grad()
    def send(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[list[bytes], Tensor]:
        """What the sender does: one stream a sequence, and the lengths (batch,) of sequences."""
        tokens, lengths, _ = _packed(input_ids, attention_mask)
        return self._compress(tokens, lengths), lengths

    @torch.no_grad()
    def receive(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """What the receiver does: logits (batch, tokens, vocabulary), padded on the right.

        Raises BitstreamError for streams that are damaged or another codec's.
        """
        return self.model.back(self.codec.decompress(streams, lengths), self.split)

    def _front(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        check_context(self.model, tokens.shape[1])
        mask = mask_of(lengths, tokens.shape[1])[..., None]
        return self.model.front(tokens, self.split).float().cpu() * mask

    def _compress(self, tokens: Tensor, lengths: Tensor) -> list[bytes]:
        return self.codec.compress(self._front(tokens, lengths), lengths, tokens)


def _packed(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens without those masked, padded on the right; lengths; where each token was."""
    tokens = input_ids.cpu()
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.cpu()
    kept = mask.bool()
    lengths = kept.sum(1)
    if tokens.ndim != 2 or kept.shape != tokens.shape or not lengths.all():
        raise InputError("tokens are (batch, tokens), at least one in every sequence, as the mask")
    places = (~kept).long().argsort(stable=True, dim=1)[:, : int(lengths.max())]
    return tokens.gather(1, places), lengths, places
