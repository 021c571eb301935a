"""Partitions to container files and back, a batch of sequences at a time.

Where the front learned with the codec, the stored representation, which is the original model's, is
not what is sent: the changed front makes it from the tokens.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor

from splitcodec.activations.store import Activations, ActivationWriter, Batch
from splitcodec.codecs.base import Codec, load_changes
from splitcodec.codecs.registry import coders_of, load_codec
from splitcodec.coding.container import (
    MOST_VALUES,
    PIPE,
    STANDARD_INPUT,
    Container,
    Header,
    read_front_to_back,
    standard,
    write_container,
)
from splitcodec.devices import device
from splitcodec.errors import BitstreamError, InputError, SettingsError
from splitcodec.files import atomic_path, read_json
from splitcodec.progress import progress
from splitcodec.settings import changes_front, describe
from splitcodec.splitting.changes import changed_model
from splitcodec.splitting.model import SplitModel

_BATCH = 16
"""Sequences at once: codecs that walk from token to token take hardly longer for many."""
_MOST_AT_ONCE = 1 << 27
"""Values that are decoded together."""
_MOST_BYTES_AT_ONCE = 1 << 24
_DATA = ("model", "model_hash", "split", "partition", "data_hash")
"""What header and store both say of the data."""


def check_fits(
    codec: Codec, meaning: dict[str, Any], directory: Path, activations: Activations
) -> None:
    """Raise SettingsError for a codec of another split or number of channels than a store's.

    InputError for one of another model, and for a store that holds nothing.
    """
    if not len(activations):
        raise InputError(f"{activations.path} holds no sequences")
    if activations.channels != codec.channels:
        raise SettingsError(
            f"{directory} codes {codec.channels} channels, {activations.path} has "
            f"{activations.channels}"
        )
    if meaning["split"] != activations.metadata["split"]:
        raise SettingsError(
            f"{directory} was made for split {meaning['split']}, {activations.path} is split "
            f"{activations.metadata['split']}"
        )
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
    codec.to(device())
    check_fits(codec, meaning, codec_directory, activations)
    if model:
        codec.attach(model.embedding)
    front = changes_front(meaning["mode"])
    model = model_of_codec(model, codec_directory, meaning) if front else None
    header = _header_of(codec, meaning, activations)
    starts = range(0, len(activations), _BATCH)
    with write_container(out, header) as writer:
        for start in progress(starts, f"encoding {meaning['name']}"):
            batch = activations.read(range(start, min(start + _BATCH, len(activations))))
            sent = representation_of(batch, meaning, model), batch.lengths, batch.tokens
            payloads = codec.compress(*(part.to(codec.device) for part in sent))
            for tokens, payload in zip(batch.lengths.tolist(), payloads, strict=True):
                writer.add(tokens, payload)


def _header_of(codec: Codec, meaning: dict[str, Any], activations: Activations) -> Header:
    """What a container of a store says; raises InputError if it cannot be said."""
    try:
        return Header(
            codec=codec.name,
            codec_hash=meaning["hash"],
            coder=codec.coder,
            channels=codec.channels,
            longest=max(activations.lengths, default=1),
            **{key: activations.metadata[key] for key in _DATA},
        )
    except ValidationError as error:
        raise InputError(
            f"{activations.path} cannot be encoded, since it says of itself what no header may: "
            f"{describe(error)}"
        ) from None


class FileDecoder:
    """A container with the codec that made it. Sequences are read and decoded when asked for."""

    def __init__(
        self,
        bitstream: Path,
        codec_directories: list[Path],
        model: SplitModel | None = None,
        most_values: int = MOST_VALUES,
    ) -> None:
        self.container = Container.open(bitstream, most_values)
        self.size = bitstream.stat().st_size
        self.codec, self.meaning, self.directory = codec_of(
            bitstream, self.header, codec_directories, model
        )

    @property
    def header(self) -> Header:
        """The container's header."""
        return self.container.header

    def decode(self, sequences: Sequence[int]) -> Tensor:
        """The reconstruction of some sequences, (batch, tokens, channels), padded with zeros."""
        chunks = [(self.container.lengths[i], self.container.read(i)) for i in sequences]
        return decode_chunks(self.container.path, self.codec, chunks, sequences)

    def check_same_data(self, activations: Activations) -> None:
        """Raise InputError unless the container was made from this store."""
        check_fits(self.codec, self.meaning, self.directory, activations)
        same_lengths = self.container.lengths == activations.lengths
        if self.header.data_hash != activations.metadata["data_hash"] or not same_lengths:
            raise _other_data(self.container.path, activations)


def decode_to_store(
    bitstream: Path,
    codec_directory: Path,
    tokens_from: Path | None,
    out: Path,
    model: SplitModel | None = None,
) -> None:
    """Decode a container, or standard input, into an activation store of float32, some sequences
    at a time.

    Tokens and documents come from the store `tokens_from`; without one they are -1 and unnamed.
    `model` is the original one, needed where the codec sends token ids.
    """
    source, header, chunks = _opened(bitstream)
    codec, learned, _ = codec_of(source, header, [codec_directory], model)
    original = Activations(tokens_from) if tokens_from else None
    if original:
        check_fits(codec, learned, codec_directory, original)
        if header.data_hash != original.metadata["data_hash"]:
            raise _other_data(source, original)
    meaning = original.metadata if original else header.model_dump(include=set(_DATA))
    meaning = {**meaning, "decoded_from": source.name}
    most, first = max(1, min(_BATCH, _MOST_AT_ONCE // (header.longest * header.channels))), 0
    with (
        atomic_path(out) as temporary,
        ActivationWriter(temporary, header.channels, torch.float32, meaning) as writer,
    ):
        for some in progress(_batches(chunks, most), "decoding"):
            lengths, rows = [tokens for tokens, _ in some], range(first, first + len(some))
            if original and original.lengths[rows.start : rows.stop] != lengths:
                raise _other_data(source, original)
            documents, tokens = [""] * len(some), torch.full((len(some), max(lengths)), -1)
            if original:
                batch = original.read(rows)
                documents, tokens = batch.documents, batch.tokens
            decoded = decode_chunks(source, codec, some, rows)
            for i, (row, count) in enumerate(zip(rows, lengths, strict=True)):
                writer.write(documents[i], row, tokens[i, :count], decoded[i, :count])
            first = rows.stop
        if original and first != len(original):
            raise _other_data(source, original)


def _opened(bitstream: Path) -> tuple[Path, Header, Iterator[tuple[int, bytes]]]:
    """What messages call it; header, and tokens and payload of each sequence."""
    if bitstream == PIPE:
        file = standard(sys.stdin, "input")
        return STANDARD_INPUT, *read_front_to_back(file, alone=True)
    if bitstream.is_fifo():
        file = bitstream.open("rb")
        header, chunks = read_front_to_back(file, alone=True, source=bitstream)
        return bitstream, header, _closing(file, chunks)
    container = Container.open(bitstream)
    return bitstream, container.header, container.chunks()


def _closing(file: BinaryIO, chunks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The chunks of a file, which is closed with them."""
    with file:
        yield from chunks


def _batches(chunks: Iterator[tuple[int, bytes]], most: int) -> Iterator[list[tuple[int, bytes]]]:
    """At most so many at a time, and fewer if one is long: the coder pads all to the longest."""
    some: list[tuple[int, bytes]] = []
    for chunk in chunks:
        longest = max(len(payload) for _, payload in [*some, chunk])
        if len(some) == most or (some and (len(some) + 1) * longest > _MOST_BYTES_AT_ONCE):
            yield some
            some = []
        some.append(chunk)
    if some:
        yield some


def codec_of(
    source: Path, header: Header, directories: list[Path], model: SplitModel | None
) -> tuple[Codec, dict[str, Any], Path]:
    """The codec, of those in `directories`, that made what the header speaks of; its meaning."""
    for directory in directories:
        # Loading takes a while, and holds the hash against all that is there.
        if read_json(directory / "codec.json", "hash")["hash"] == header.codec_hash:
            codec, meaning = load_codec(directory, None)
            _check(source, header, codec.to(device()))
            codec.coder = header.coder
            if model:
                codec.attach(model.embedding)
            return codec, meaning, directory
    raise BitstreamError(
        f"{source} was made by a {header.codec} codec with hash {header.codec_hash}, which is not "
        f"in {', '.join(map(str, directories))}; name the directory whose codec.json has this hash"
    )


def _check(source: Path, header: Header, codec: Codec) -> None:
    """Raise BitstreamError unless the header speaks of this codec."""
    known = (codec.name, codec.channels) == (header.codec, header.channels)
    if not known or header.coder not in coders_of(codec.name):
        raise BitstreamError(
            f"{source} says {header.codec} of {header.channels} channels by {header.coder}, which "
            "its codec is not; encode it again"
        )


@torch.no_grad()
def decode_chunks(
    source: Path, codec: Codec, chunks: list[tuple[int, bytes]], sequences: Sequence[int]
) -> Tensor:
    """The reconstruction of sequences of so many tokens and such payloads."""
    lengths = torch.tensor([tokens for tokens, _ in chunks])
    try:
        return codec.decompress([payload for _, payload in chunks], lengths)
    except BitstreamError as error:
        raise BitstreamError(
            f"{source}, sequences {sequences[0]} to {sequences[-1]}: {error}"
        ) from None


def _other_data(source: Path, activations: Activations) -> InputError:
    return InputError(f"{source} was made from other data than {activations.path}; encode it again")
