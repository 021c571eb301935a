from types import SimpleNamespace

import pytest
import torch

from small_world import save_for
from splitcodec.activations.extraction import extract
from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.activations.store import Activations
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt
from splitcodec.codecs.registry import build_codec
from splitcodec.evaluation.bitstreams import encode

SPLIT, BLOCKS = 2, 3


@pytest.fixture(scope="module")
def stores(world, tmp_path_factory):
    """Evaluation data at the split and at the end: as stored by default, and in float32."""
    folder = tmp_path_factory.mktemp("float32")
    outputs = {SPLIT: folder / "split.parquet", BLOCKS: folder / "final.parquet"}
    extract(world.model, world.tokens("evaluation"), outputs, torch.float32, batch_sequences=4)
    return SimpleNamespace(
        split=world.activations(SPLIT, "evaluation"),
        final=world.activations(BLOCKS, "evaluation"),
        split32=Activations(outputs[SPLIT]),
        final32=Activations(outputs[BLOCKS]),
    )


@pytest.fixture(scope="module")
def codecs(world, tmp_path_factory):
    """Folders of fp16, int8, int2, and two KLTs, by name."""
    folder = tmp_path_factory.mktemp("codecs")
    train = world.activations(SPLIT, "train")
    fixed = {"mode": "none", "lambda": None, "seed": None}
    made = {
        name: save_for(build_codec(name, 32, {}), train, folder / name, **fixed)
        for name in ("fp16", "int8", "int2")
    }
    identity = torch.eye(32, dtype=torch.float64)
    sample = sample_tokens(train, 2000, 0)
    for name, rate_weight in (("fine", 0.001), ("coarse", 0.1)):
        codec = fit_klt(KltHyperparameters(), moments_of(train), identity, sample, rate_weight)
        made[name] = save_for(codec, train, folder / name, **{"lambda": rate_weight})
    return made


@pytest.fixture(scope="module")
def bitstreams(stores, codecs, tmp_path_factory):
    """Container files of the evaluation store, by codec and coder."""
    folder = tmp_path_factory.mktemp("bitstreams")
    made = {}
    for name, directory in codecs.items():
        learned = name in ("fine", "coarse")
        for coder in ("ans",) if learned else ("raw", "deflate", "zstd"):
            made[name, coder] = folder / f"{name}-{coder}.rdc"
            encode(stores.split, directory, coder, made[name, coder])
    return made
