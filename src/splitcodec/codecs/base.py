"""The face of every codec: differentiable estimate, compress, decompress; and its folder on disk.

Shapes: representation (batch, tokens, channels) float32, lengths (batch,) int64, token ids
(batch, tokens) int64, which codecs ignore that do not send them; one stream a sequence. What lies
beyond a sequence's length is ignored and reconstructed as zero.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from splitcodec.activations.store import mask_of
from splitcodec.codecs.hyperparameters import Hyperparameters
from splitcodec.codecs.streaming import StatelessStream, Stream
from splitcodec.errors import BitstreamError, InputError, reason_of
from splitcodec.files import atomic_path, read_json, write_json


@dataclass(frozen=True)
class Estimate:
    """What a codec expects of itself, without making bytes.

    reconstruction (batch, tokens, channels); bits (batch, tokens): estimated rate of each token,
    zero beyond a sequence's length.
    """

    reconstruction: Tensor
    bits: Tensor


class Codec(nn.Module):
    """Base of all codecs and baselines.

    `name` as in the catalogue; `coder` says what turns symbols into bytes: `ans` for learned
    codecs, `raw`, `deflate` or `zstd` for baselines.
    """

    coder: str = "ans"

    def __init__(self, name: str, channels: int, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.name = name
        self.channels = channels
        self.hyperparameters = hyperparameters

    @property
    def device(self) -> torch.device:
        """Where its tensors lie, and so what it codes must; the processor if it has none."""
        return next((tensor.device for tensor in self.buffers()), torch.device("cpu"))

    def attach(self, embedding: Tensor) -> None:
        """Give the codec the head's weights (vocabulary, channels); most need none."""

    @property
    def sends_tokens(self) -> bool:
        """Whether token ids are sent too; then the codec needs them and the head's weights."""
        return False

    def check(self, representation: Tensor, lengths: Tensor) -> None:
        """Raise InputError for what is no batch of this codec."""
        check_lengths(lengths)
        batch, count, channels = representation.shape
        if channels != self.channels:
            raise InputError(f"the codec has {self.channels} channels, not {channels}")
        if len(lengths) != batch or lengths.max() > count:
            raise InputError(
                f"lengths up to {int(lengths.max())} of {len(lengths)} sequences are not those of "
                f"a representation of {batch} sequences and {count} tokens"
            )

    def inputs(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A checked representation, and token ids, zero beyond each length; between them the mask
        (batch, tokens) of what is there."""
        self.check(representation, lengths)
        mask = mask_of(lengths.to(representation.device), representation.shape[1])
        if not mask.all():
            representation = representation.where(mask[..., None], 0)
            if self.sends_tokens and tokens is not None:
                tokens = tokens.where(mask.to(tokens.device), 0)
        return representation, mask, tokens

    def forward(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> Estimate:
        """Reconstruction and estimated rate, differentiable where the codec learns."""
        raise NotImplementedError

    def compress(
        self, representation: Tensor, lengths: Tensor, tokens: Tensor | None = None
    ) -> list[bytes]:
        """One stream a sequence."""
        raise NotImplementedError

    def decompress(self, streams: list[bytes], lengths: Tensor) -> Tensor:
        """The reconstruction that compress meant; raises BitstreamError for damaged streams."""
        raise NotImplementedError

    def stream(self) -> Stream:
        """One end of a sequence that is coded token by token."""
        return StatelessStream(self)


def check_lengths(lengths: Tensor) -> None:
    """Raise InputError unless there is a sequence, and none is empty."""
    if not len(lengths):
        raise InputError("there are no sequences: there is nothing to code")
    if lengths.min() < 1:
        raise InputError("a sequence has no tokens: there is nothing to code")


def check_count(streams: list[bytes], lengths: Tensor) -> None:
    """Raise BitstreamError unless there is a stream for each of `lengths` (streams,)."""
    check_lengths(lengths)
    if len(streams) != len(lengths):
        raise BitstreamError(f"{len(streams)} streams are not those of {len(lengths)} sequences")


_NOT_HASHED = ("train_seconds", "versions", "hash")
_CHANGES = "model_changes_sha256"
MOST_CHANNELS = 1 << 20


class Description(BaseModel):
    """What codec.json says at least."""

    model_config = ConfigDict(extra="allow", strict=True)

    codec: str
    name: str
    hash: str
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    hyperparameters: dict[str, Any]
    mode: str
    model: str
    model_hash: str
    split: Annotated[int, Field(ge=0)]
    seed: int | None
    rate_weight: float | None = Field(alias="lambda")
    lambdas: Annotated[list[float], Field(min_length=2)] | None = None
    train_seconds: float = 0.0
    model_changes_sha256: str | None = None


def save_codec(
    codec: Codec,
    directory: Path,
    meaning: dict[str, Any],
    changes: dict[str, Tensor] | None = None,
) -> None:
    """Write codec.safetensors and codec.json; the hash names exactly this codec.

    `changes` are the weights of the model that learned with the codec, if any could; they go to
    model.safetensors. The hash covers all weights and what they are for, not when and with what
    they were made.
    """
    weights = _bytes_of(codec.state_dict())
    if changes is not None:
        changed = _bytes_of(changes)
        meaning = meaning | {_CHANGES: hashlib.sha256(changed).hexdigest()}
        with atomic_path(directory / "model.safetensors") as temporary:
            temporary.write_bytes(changed)
    identity = {
        "codec": codec.name,
        "name": codec.name,
        "channels": codec.channels,
        "hyperparameters": codec.hyperparameters.model_dump(),
        **meaning,
    }
    with atomic_path(directory / "codec.safetensors") as temporary:
        temporary.write_bytes(weights)
    write_json(directory / "codec.json", {**identity, "hash": _hash_of(identity, weights)})


def load_state(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """codec.json and the tensors of a codec's folder; raises InputError if either is damaged."""
    meaning = read_json(directory / "codec.json")
    try:
        Description.model_validate(meaning)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "all of it"
        raise InputError(
            f"{directory}/codec.json does not describe a codec (see {place:.100}); train it again"
        ) from None
    weights = _read(directory / "codec.safetensors")
    state = _tensors_of(weights, directory)
    if meaning["hash"] != _hash_of(meaning, weights):
        raise InputError(f"{directory} does not match its hash: it is damaged; train it again")
    return meaning, state


def load_changes(directory: Path, meaning: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the model that learned with a codec; raises InputError if they do not fit.

    `meaning` is its codec.json; empty for a codec with which no model learned.
    """
    if _CHANGES not in meaning:
        return {}
    data = _read(directory / "model.safetensors")
    if hashlib.sha256(data).hexdigest() != meaning[_CHANGES]:
        raise InputError(
            f"{directory}/model.safetensors is damaged or another codec's; train it again"
        )
    return _tensors_of(data, directory)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path.parent} holds no readable codec ({path.name}: {error.strerror}); train it again"
        ) from None


def _tensors_of(data: bytes, directory: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, RuntimeError) as error:  # a dtype or shape torch has not
        raise InputError(
            f"{directory} holds no readable codec ({reason_of(error)}); train it again"
        ) from None


def _bytes_of(state: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()})


def _hash_of(meaning: dict[str, Any], weights: bytes) -> str:
    identity = {key: value for key, value in meaning.items() if key not in _NOT_HASHED}
    text = json.dumps(identity, sort_keys=True).encode()
    return hashlib.sha256(text + weights).hexdigest()[:32]
