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


BYTES = {
    4: {
        "context": "b747cac18badc2e6e0dc02a6a846f458",
        "context-trellis": "842670529df403736389f4b7f687001e",
        "direct-access": "157f018453bed4f790d02d889ed6f0f7",
        "direct-access-history": "e355ce60ae72ffd5fc6aa610c42280e6",
        "factorised": "2b6ea581b8ed7af60c3054b36ae4033b",
        "fp16": "6da807157d317061e1f2d1f11bd47675",
        "hyperprior": "e9906c3532f8691d986033c94cfee0db",
        "hyperprior-levels": "79b9b59b4cbee14ff5c65ca6a99e6cdb",
        "int3": "d729f3bbbb9b1b9d1b5a8efa18fb8d8f",
        "int8": "308ff4c4dd7384b31a791b9bae056c5b",
        "klt": "74d162bfe4b5c2bb54dfafb03c5c92cd",
        "klt-levels": "ea5141b87319fa2b954069e2e426ffaf",
        "klt-tokens": "15b48449a975820b11681a0a00d6b646",
        "trellis": "7d8222eba638080a4170d8797b0ce2ca",
    }
}
"""The start of a SHA-256 of each golden stream and its packets, by version of the format."""


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_the_bytes_of_a_version_never_change():
    found = {}
    for folder in FOLDERS:
        digest = hashlib.sha256()
        for name in ("stream.rdc", "packets.json"):
            digest.update((folder / name).read_bytes())
        found[folder.name] = digest.hexdigest()[:32]
    assert BYTES[VERSION] == found, BREAKING


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
