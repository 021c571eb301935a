"""Files made by an earlier state of the program decode to what they meant, and are made again."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from make import PIECES

from splitcodec.codecs.registry import load_codec
from splitcodec.coding.container import VERSION, Container
from splitcodec.evaluation.bitstreams import FileDecoder

FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("*/stream.rdc"))
BREAKING = (
    f"this change breaks every file of format version {VERSION} that exists: if that is meant, "
    "raise VERSION in src/splitcodec/coding/container.py, describe the change in docs/format.md, "
    "and make the golden files anew with `python tests/golden/make.py`"
)


BYTES = {4: "94ddb8eb0642eb8b50ba1fdda1322d6a2cbcd8867d2a0c29c51e291f25f2b186"}
"""SHA-256 of all golden streams and packets, a line for each version of the format since 4."""


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_there_is_one_of_each_kind():
    assert len(FOLDERS) == 13


def test_the_bytes_of_a_version_never_change():
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for name in ("stream.rdc", "packets.json"):
            digest.update((folder / name).read_bytes())
    assert BYTES[VERSION] == digest.hexdigest(), BREAKING


@torch.no_grad()
def test_golden_packets_decode_to_the_sequence(folder):
    data = safetensors.torch.load_file(folder / "data.safetensors")
    codec, _ = load_codec(folder, Container.open(folder / "stream.rdc").header.coder)
    if codec.sends_tokens:
        codec.attach(data["embedding"])
    packets = map(bytes.fromhex, json.loads((folder / "packets.json").read_text()))
    receiver = codec.stream()
    pieces = [receiver.decode(*one) for one in zip(packets, PIECES, strict=True)]
    whole = data["reconstruction"][0]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_golden_file_decodes_to_what_it_meant(folder):
    data = safetensors.torch.load_file(folder / "data.safetensors")
    decoder = FileDecoder(folder / "stream.rdc", [folder])
    if decoder.codec.sends_tokens:
        decoder.codec.attach(data["embedding"])
    # that the symbols are the same, the checksums in the streams have proved
    decoded = decoder.decode(range(3))
    torch.testing.assert_close(
        decoded, data["reconstruction"], rtol=1e-5, atol=1e-4, msg=lambda m: f"{m}\n{BREAKING}"
    )


@torch.no_grad()
def test_encoding_makes_the_golden_bytes(folder):
    container = Container.open(folder / "stream.rdc")
    coder = container.header.coder
    if coder in ("deflate", "zstd"):
        pytest.skip("another version of the library may find a shorter stream")
    data = safetensors.torch.load_file(folder / "data.safetensors")
    codec, _ = load_codec(folder, coder)
    if codec.sends_tokens:
        codec.attach(data["embedding"])
    made = codec.compress(data["representation"], data["lengths"], data["tokens"])
    assert made == [container.read(i) for i in range(3)], BREAKING
    pieces = zip(
        *(data[name][0].split(PIECES) for name in ("representation", "tokens")), strict=True
    )
    sender, packets = codec.stream(), json.loads((folder / "packets.json").read_text())
    assert [sender.encode(*piece).hex() for piece in pieces] == packets, BREAKING
