"""Partitions to container files and back.

Where the front learned with the codec, the stored representation, which is the original model's, is
not what is sent: the changed front makes it from the tokens.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitcodec.activations.store import Activations, ActivationWriter, Batch
from splitcodec.codecs.base import load_changes
from splitcodec.codecs.registry import load_codec
from splitcodec.coding.container import Container, read_container, write_container
from splitcodec.errors import BitstreamError, InputError, SettingsError
from splitcodec.files import atomic_path
from splitcodec.progress import progress
from splitcodec.settings import changes_front
from splitcodec.splitting.changes import changed_model
from splitcodec.splitting.model import SplitModel

_BATCH = 4


def check_same_model(meaning: dict[str, Any], activations: Activations, directory: Path) -> None:
    """Raise InputError unless a codec was trained with the model that these tokens are for."""
    if meaning["model_hash"] != activations.metadata["model_hash"]:
        raise InputError(f"{directory} learned with another model than {activations.path} is of")


def model_of_codec(
    model: SplitModel | None, codec_directory: Path, meaning: dict[str, Any]
) -> SplitModel | None:
    """The model as it learned with a codec; raises InputError when the two do not fit together."""
    changes = load_changes(codec_directory, meaning)
    if changes and model is None:
        raise InputError(f"{codec_directory} learned with its model; give --model")
    return changed_model(model, changes)


def representation_of(
    batch: Batch, meaning: dict[str, Any], model: SplitModel | None
) -> torch.Tensor:
    """What is sent of a batch, (batch, tokens, channels); `model` as it learned with the codec."""
    if not changes_front(meaning["mode"]):
        return batch.representation
    return model.front(batch.tokens, meaning["split"]).float().cpu() * batch.mask[..., None]


@torch.no_grad()
def encode(
    activations: Activations,
    codec_directory: Path,
    coder: str | None,
    out: Path,
    model: SplitModel | None = None,
) -> None:
    """Encode every sequence of a store into one container file.

    `model` is the original one, needed where the front learned with the codec or the codec sends
    token ids.
    """
    codec, meaning = load_codec(codec_directory, coder)
    if activations.channels != codec.channels:
        raise SettingsError(
            f"{codec_directory} codes {codec.channels} channels, {activations.path} has "
            f"{activations.channels}"
        )
    if meaning["split"] != activations.metadata["split"]:
        raise SettingsError(
            f"{codec_directory} was made for split {meaning['split']}, {activations.path} is split "
            f"{activations.metadata['split']}"
        )
    if model:
        check_same_model(meaning, activations, codec_directory)
        codec.attach(model.embedding)
    front = changes_front(meaning["mode"])
    model = model_of_codec(model, codec_directory, meaning) if front else None
    payloads: list[bytes] = []
    starts = range(0, len(activations), _BATCH)
    for start in progress(starts, f"encoding {meaning['name']}"):
        batch = activations.read(range(start, min(start + _BATCH, len(activations))))
        sent = representation_of(batch, meaning, model)
        payloads += codec.compress(sent, batch.lengths, batch.tokens)
    header = {
        "codec": codec.name,
        "codec_hash": meaning["hash"],
        "coder": codec.coder,
        "channels": codec.channels,
        **{key: activations.metadata[key] for key in ("model", "split", "partition", "data_hash")},
    }
    write_container(out, header, activations.lengths, payloads)


class Decoder:
    """A container with the codec that made it."""

    def __init__(
        self, bitstream: Path, codec_directories: list[Path], model: SplitModel | None = None
    ) -> None:
        self.container: Container = read_container(bitstream)
        self.size = bitstream.stat().st_size
        header = self.container.header
        for directory in codec_directories:
            codec, meaning = load_codec(directory, None)
            if meaning["hash"] == header["codec_hash"]:
                codec.coder = header["coder"]
                if model:
                    codec.attach(model.embedding)
                self.codec, self.meaning, self.directory = codec, meaning, directory
                return
        raise BitstreamError(
            f"{bitstream} was made by a {header['codec']} codec with hash {header['codec_hash']}, "
            f"which is not in {', '.join(map(str, codec_directories))}"
        )

    @property
    def header(self) -> dict[str, Any]:
        """The container's header."""
        return self.container.header

    @torch.no_grad()
    def decode(self, sequences: range) -> Tensor:
        """The reconstruction of some sequences, (batch, tokens, channels), padded with zeros."""
        payloads = [self.container.payloads[i] for i in sequences]
        lengths = torch.tensor([self.container.lengths[i] for i in sequences])
        return self.codec.decompress(payloads, lengths)

    def check_same_data(self, activations: Activations) -> None:
        """Raise InputError unless the container was made from this store."""
        same_lengths = self.container.lengths == activations.lengths
        if self.header["data_hash"] != activations.metadata["data_hash"] or not same_lengths:
            raise InputError(
                f"the bitstream of {self.directory} was made from other data than "
                f"{activations.path}; encode it again"
            )


def decode_to_store(
    bitstream: Path,
    codec_directory: Path,
    tokens_from: Path,
    out: Path,
    model: SplitModel | None = None,
) -> None:
    """Decode a container into an activation store of float32; tokens come from `tokens_from`.

    `model` is the original one, needed where the codec sends token ids.
    """
    decoder = Decoder(bitstream, [codec_directory], model)
    original = Activations(tokens_from)
    decoder.check_same_data(original)
    meaning = {**original.metadata, "decoded_from": bitstream.name}
    with (
        atomic_path(out) as temporary,
        ActivationWriter(temporary, original.channels, torch.float32, meaning) as writer,
    ):
        for row in progress(range(len(original)), "decoding"):
            batch = original.read([row])
            writer.write(batch.documents[0], row, batch.tokens[0], decoder.decode([row])[0])
