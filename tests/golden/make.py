"""Makes the golden files anew: `python tests/golden/make.py`.

For every kind of codec a folder with codec.json and codec.safetensors, stream.rdc, and
data.safetensors: what was encoded (representation, lengths, tokens), what must be decoded
(reconstruction), and the head's rows (embedding) of codecs that send token ids; and packets.json:
the first sequence as packets of `PIECES` tokens, hexadecimal. Only a change of
the format may need this, and then VERSION in src/splitcodec/coding/container.py must be raised in
the same commit.
"""

import json
import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "codecs")]

from codec_samples import (  # noqa: E402
    CHANNELS,
    LEARNED,
    VOCABULARY,
    fitted_direct_access,
    representations,
    with_tokens,
)

from splitcodec.codecs.base import Codec, load_state, save_codec  # noqa: E402
from splitcodec.codecs.registry import build_codec  # noqa: E402
from splitcodec.coding.container import Header, write_container  # noqa: E402

LENGTHS = [6, 1, 4]
PIECES = [3, 1, 2]
BASELINES = {"fp16": "raw", "int8": "deflate", "int3": "zstd"}
KINDS = [
    "klt",
    "klt-tokens",
    "klt-levels",
    "trellis",
    "factorised",
    "hyperprior",
    "direct-access",
    "direct-access-history",
    "hyperprior-levels",
    "context",
    "context-trellis",
    *BASELINES,
]


def codec_of(kind: str) -> Codec:
    """A small codec of the kind, ready to code."""
    if kind in BASELINES:
        codec = build_codec(kind, CHANNELS, {})
        codec.coder = BASELINES[kind]
        return codec
    if kind == "context":  # what the default experiment calls so
        return rated(fitted_direct_access(levels=5, history=True, side_channels=0))
    if kind == "context-trellis":  # its gains differ as they are
        codec = LEARNED["direct-access-trellis"]()
        codec.levels.set_rate(6.0)
        return codec
    if kind == "hyperprior-levels":
        return rated(LEARNED[kind]())
    return with_tokens() if kind == "klt-tokens" else LEARNED[kind]()


def rated(codec: Codec) -> Codec:
    """A codec with levels, set to a λ other than its own, with gains that differ by table."""
    codec.levels.set_rate(6.0)
    with torch.no_grad():
        codec.table_gain.copy_(torch.linspace(0.8, 1, len(codec.table_gain)))
    return codec


@torch.no_grad()
def make(folder: Path, kind: str) -> None:
    """The golden files of one kind."""
    shutil.rmtree(folder, ignore_errors=True)
    codec, lengths = codec_of(kind), torch.tensor(LENGTHS)
    data = {"representation": representations(3, max(LENGTHS)), "lengths": lengths}
    data["tokens"] = (torch.arange(3 * max(LENGTHS)) ** 2 % VOCABULARY).view(3, -1)
    if codec.sends_tokens:
        data["embedding"] = torch.randn(VOCABULARY, CHANNELS)
        codec.attach(data["embedding"])
    payloads = codec.compress(data["representation"], lengths, data["tokens"])
    data["reconstruction"] = codec.decompress(payloads, lengths)
    meaning = {"model": "m", "model_hash": "h", "split": 2, "mode": "frozen", "data_hash": "d"}
    save_codec(codec, folder, meaning | {"lambda": 0.01, "seed": 0})
    header = Header(
        codec=codec.name,
        codec_hash=load_state(folder)[0]["hash"],
        coder=codec.coder,
        model="m",
        model_hash="h",
        split=2,
        channels=CHANNELS,
        longest=max(LENGTHS),
        partition="evaluation",
        data_hash="d",
    )
    with write_container(folder / "stream.rdc", header) as writer:
        for tokens, payload in zip(LENGTHS, payloads, strict=True):
            writer.add(tokens, payload)
    safetensors.torch.save_file(data, folder / "data.safetensors")
    sender, first = codec.stream(), data["representation"][0].split(PIECES)
    ids = data["tokens"][0].split(PIECES)
    packets = [sender.encode(*piece).hex() for piece in zip(first, ids, strict=True)]
    (folder / "packets.json").write_text(json.dumps(packets, indent=1) + "\n")


if __name__ == "__main__":
    for kind in KINDS:
        torch.manual_seed(0)
        make(Path(__file__).parent / kind, kind)
