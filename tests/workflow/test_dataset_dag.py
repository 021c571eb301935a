"""Inputs from data sets, through the rules: text to tokens, and pictures to pixels in shards."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from splitcodec.inputs.model_inputs import read_inputs
from workflow_runs import snakemake

PARTITIONS = {
    "train": {"share": [0, 0.6], "sequences": 11},
    "validation": {"share": [0.6, 0.8], "sequences": 2},
    "evaluation": {"share": [0.8, 1], "sequences": 2},
}
PARAMS = {
    "experiment": "streamed",
    "models": [
        {
            "name": "words",
            "source": {"kind": "random", "architecture": "gpt2", "blocks": 2, "channels": 16,
                       "heads": 2, "context": 64},
            "splits": [1],
        },
        {
            "name": "vit",
            "reads": "images",
            "source": {"kind": "files", "path": "mine/vit"},
            "splits": [1],
        },
    ],
    "text": {
        "name": "lines",
        "source": {"kind": "dataset", "dataset": "mine/lines", "text": "body", "documents": 10},
        "sequence_length": 32,
        "partitions": PARTITIONS,
    },
    "images": {
        "name": "shades",
        "sources": [{"source": {"kind": "dataset", "dataset": "mine/shades"}, "prefix": "s-"}],
        "partitions": PARTITIONS,
    },
    "codecs": [{"name": "klt", "lambdas": [1.0e-3]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("streamed")
    size = {"height": 16, "width": 16}
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = ViTForImageClassification(ViTConfig(**shape, image_size=16, patch_size=8))
    model.save_pretrained(directory / "mine/vit")
    ViTImageProcessorPil(size=size).save_pretrained(directory / "mine/vit")
    (directory / "mine/lines").mkdir()
    rows = [json.dumps({"body": f"{number} " * 30}) for number in range(12)]
    (directory / "mine/lines/train.jsonl").write_text("\n".join(rows))
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (directory / "mine/shades/train" / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            picture.save(directory / f"mine/shades/train/{name}/{number}.png")
    (directory / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return directory


def make(directory, target, *changes):
    done = snakemake(directory, target, *changes, config=directory / "params.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return read_inputs(directory / target)


def test_text_of_a_data_set_becomes_tokens(directory):
    table = make(directory, "results/streamed/tokens/words/train.parquet")
    assert set(table.documents) == {f"{number:09d}" for number in range(1, 7)}
    assert table.metadata["text"]["documents"] == 10


def test_shards_of_pixels_are_jobs_and_give_the_bytes_of_one(directory):
    target = "results/streamed/pixels/vit/train.parquet"
    table = make(directory, target)
    assert len(table) == 11
    assert sorted({int(table.marks(row, 1)[0]) for row in range(11)}) == [0, 1]
    before = (directory / target).read_bytes()
    (directory / target).unlink()
    logs = directory / "results/streamed/logs/prepare"
    assert not [*logs.glob("vit/*.log")]
    make(directory, target, "--config", "images={shards: 3}")
    assert (directory / target).read_bytes() == before
    assert {path.stem for path in logs.glob("vit/*.log")} == {"shard1", "shard2", "shard3", "join"}
    assert not [*(directory / "results/streamed/pixels").glob("*/shard*/*")]
