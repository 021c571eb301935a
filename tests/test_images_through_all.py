"""Image models through every phase: pictures, pixels, representations, codec, files, evaluation."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from splitcodec.activations.extraction import extract
from splitcodec.activations.store import Activations
from splitcodec.bounds.measure import measure_bounds
from splitcodec.errors import InputError, SettingsError
from splitcodec.evaluation.bitstreams import encode
from splitcodec.evaluation.fidelity import evaluate, evaluate_uncoded
from splitcodec.evaluation.pictures import coded as coded_picture
from splitcodec.evaluation.pictures import evaluate_pictures
from splitcodec.files import write_json
from splitcodec.inputs import images as images_module
from splitcodec.inputs.images import fetch_images
from splitcodec.inputs.model_inputs import read_inputs
from splitcodec.inputs.pixels import prepare
from splitcodec.inputs.shards import Shard, join
from splitcodec.settings import FilesSource, ImageSource, Partition
from splitcodec.settings.measures import Bounds
from splitcodec.splitting.loading import load_split_model
from splitcodec.training.run import Material, recipe, train
from splitcodec.training.sensitivity import measure_sensitivity, save_sensitivity

SMALL = dict(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
)
WIDER = dict(initializer_range=0.2)
MODELS = {
    "vit": lambda: ViTForImageClassification(
        ViTConfig(**SMALL, **WIDER, intermediate_size=32, num_labels=4)
    ),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL, **WIDER, mlp_ratio=2)),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16],
            depths=[1, 1, 1],
            layer_type="basic",
            num_labels=4,
        )
    ),
}
RULES = {
    "train": Partition(documents=["train*"], sequences=40),
    "validation": Partition(documents=["validation*"], sequences=6),
    "evaluation": Partition(documents=["evaluation*"], sequences=6),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for partition, count in (("train", 8), ("validation", 3), ("evaluation", 6)):
        for number in range(count):
            coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((60, 44), Image.Resampling.BICUBIC)
            picture.save(folder / f"{partition}{number}_{number % 4}.png")
    (folder / "zcopy_0.png").write_bytes((folder / "train0_0.png").read_bytes())
    source = ImageSource(source=FilesSource(kind="files", path=f"{folder}/*.png"), label=r"_(\d)\.")
    fetch_images([source], folder / "images.parquet")
    return folder / "images.parquet"


@pytest.fixture(scope="module", params=MODELS)
def world(request, images, tmp_path_factory):
    """Folder with model, pixels, and representations at split 1 and at the end."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(folder / "model")
    size = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=size).save_pretrained(folder / "model")
    identity = {"kind": "model", "weights_sha256": request.param}
    write_json(folder / "model/splitcodec.json", identity)
    model = load_split_model(folder / "model", patch=2 if request.param == "resnet" else 1)
    for partition, rule in RULES.items():
        pixels = folder / f"{partition}.parquet"
        others = {name: other for name, other in RULES.items() if name != partition}
        prepare(images, folder / "model", partition, rule, others, pixels)
        outputs = {k: folder / f"split{k}/{partition}.parquet" for k in (1, 2, 3)}
        extract(model, pixels, outputs, torch.float16, batch_sequences=3)
    return folder, model


def store(world, split, partition):
    return Activations(world[0] / f"split{split}/{partition}.parquet")


def test_pixels_are_what_the_models_own_processor_gives(world, images):
    table = read_inputs(world[0] / "evaluation.parquet")
    processor = AutoImageProcessor.from_pretrained(world[0] / "model", backend="pil")
    for row, name in enumerate(table.documents):
        picture = Image.open(images.parent / f"{name}.png").convert("RGB")
        expected = processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(table.values(row), expected, atol=1e-5)
    assert table.marks(1, 5).tolist() == [1] * 5


def test_a_partition_with_more_views_than_pictures_has_crops_and_is_repeatable(world, images):
    table = read_inputs(world[0] / "train.parquet")
    assert len(table) == 40
    assert len(set(table.documents)) == 8, "the copy of a picture counts once"
    assert len({table.pixels(row).tobytes() for row in range(40)}) > 35
    again = world[0] / "again.parquet"
    prepare(images, world[0] / "model", "train", RULES["train"], {}, again)
    assert again.read_bytes() == (world[0] / "train.parquet").read_bytes()


@pytest.mark.parametrize("count", [1, 3, 47])
def test_shards_of_pixels_join_to_the_bytes_of_one_job(world, images, tmp_path, count):
    shards = [tmp_path / f"{number}.parquet" for number in range(1, count + 1)]
    for number, path in enumerate(shards, start=1):
        part = Shard(number, count)
        prepare(images, world[0] / "model", "train", RULES["train"], {}, path, part)
    rows = [len(read_inputs(path)) for path in shards]
    assert sum(rows) == 40
    assert max(rows) - min(rows) <= 1
    join(shards[::-1], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (world[0] / "train.parquet").read_bytes()
    if count > 1:
        with pytest.raises(InputError, match="shard 1 is missing"):
            join(shards[1:], tmp_path / "again")


def test_pictures_in_many_row_groups_give_the_same_pixels(world, images, tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "_GROUP_BYTES", 10_000)
    pattern = f"{images.parent}/*.png"
    source = ImageSource(source=FilesSource(kind="files", path=pattern), label=r"_(\d)\.")
    fetch_images([source], tmp_path / "images.parquet")
    groups = [pq.ParquetFile(path).num_row_groups for path in (images, tmp_path / "images.parquet")]
    assert groups[0] < groups[1]
    tables = [read_inputs(world[0] / "train.parquet")]
    prepare(tmp_path / "images.parquet", world[0] / "model", "train", RULES["train"], {},
            tmp_path / "train.parquet")  # fmt: skip
    tables.append(read_inputs(tmp_path / "train.parquet"))
    for row in range(40):
        ours, theirs = (
            (t.documents[row], t.pixels(row).tobytes(), *t.marks(row, 1)) for t in tables
        )
        assert ours == theirs


@torch.no_grad()
def test_stored_representations_lead_to_the_models_outputs(world):
    folder, model = world
    table, stored = read_inputs(folder / "evaluation.parquet"), store(world, 1, "evaluation")
    pixels = torch.from_numpy(np.stack([table.values(row) for row in range(6)]))
    output = model.model(pixels)
    expected = output.logits[:, None] if "logits" in output else output.last_hidden_state
    found = model.back(stored.read(range(6)).representation, 1)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.fixture(scope="module")
def coded(world):
    """Rows of evaluation by (codec, coder)."""
    folder, model = world
    trained = store(world, 1, "train")
    fisher = measure_sensitivity(model, {1: trained, 2: store(world, 2, "train")}, 12, 3, 0)
    keys = ("model", "model_hash", "split", "data_hash")
    meaning = {key: trained.metadata[key] for key in keys}
    save_sensitivity(folder / "sensitivity.safetensors", fisher[1], meaning)
    small = dict(steps=4, polish_steps=3, width=8, heads=2, side_channels=2, batch_tokens=100)
    wanted = {
        "klt": recipe("klt", [1e-5], 0, {}),
        "hyperprior": recipe("hyperprior", [1e-3], 0, small | {"polish_batch_tokens": 64}),
        "fp16": recipe("fp16", [], 0, {}),
        "int2": recipe("int2", [], 0, {}),
    }
    streams = {}
    for name, own in wanted.items():
        material = Material(
            sensitivity=folder / "sensitivity.safetensors",
            references=folder / "split3/train.parquet",
            validation=folder / "split1/validation.parquet",
            validation_references=folder / "split3/validation.parquet",
            model=model,
            checkpoint=folder / f"{name}.pt",
        )
        train(own, folder / "split1/train.parquet", folder / name, material)
        streams[name] = folder / f"{name}.rdc"
        encode(store(world, 1, "evaluation"), folder / name, None, streams[name], model)
    rows = evaluate(
        model,
        store(world, 1, "evaluation"),
        store(world, 3, "evaluation"),
        [folder / name for name in wanted],
        list(streams.values()),
        batch_sequences=4,
        resamples=50,
    )
    return {row["codec"]: row for row in rows}


def test_every_codec_is_evaluated_by_what_the_model_predicts(world, coded):
    _, model = world
    for row in coded.values():
        assert row["kl"] >= -1e-6
        assert row["cross_entropy"] == pytest.approx(row["cross_entropy_uncoded"] + row["kl"])
        if model.predicts == "features":
            assert row["feature_error"] == pytest.approx(2 * row["kl"])
        else:
            assert 0 <= row["accuracy"] <= 1
    assert coded["fp16"]["kl"] == pytest.approx(0, abs=1e-4)
    assert coded["fp16"]["kl"] <= coded["int2"]["kl"]
    assert coded["klt"]["bits_per_token_file"] < coded["fp16"]["bits_per_token_file"]


def test_the_uncoded_model_agrees_with_itself(world):
    _, model = world
    found = evaluate_uncoded(model, store(world, 3, "evaluation"), 4, 50)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    if model.predicts == "labels":
        assert found["accuracy"] == found["accuracy_uncoded"]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_picture_sent_in_better_quality_costs_more_and_is_better(world, format):
    folder, model = world
    table, final = read_inputs(folder / "evaluation.parquet"), store(world, 3, "evaluation")
    low, high = evaluate_pictures(model, table, final, format, [5, 95], 4, 50)
    sizes = [coded_picture(table.pixels(row), format, 95)[1] for row in range(6)]
    assert high["bits_per_picture"] == pytest.approx(8 * sum(sizes) / 6)
    assert high["bits_per_token_file"] == pytest.approx(8 * sum(sizes) / final.tokens)
    assert low["bits_per_token_file"] < high["bits_per_token_file"]
    assert 0 < high["kl"] < low["kl"]
    plain = io.BytesIO()
    picture = Image.fromarray(table.pixels(0).transpose(1, 2, 0))
    picture.save(plain, format, quality=95)
    assert sizes[0] <= len(plain.getvalue()) - 50 * (format == "jpeg"), "the rival is tuned too"
    with pytest.raises(InputError, match="was not extracted from"):
        other = read_inputs(folder / "validation.parquet")
        evaluate_pictures(model, other, final, format, [5], 4, 50)


def test_bounds_hold_for_images_too(world, coded):
    folder, _ = world
    report = measure_bounds(
        store(world, 1, "train"),
        [folder / "klt"],
        Bounds(rademacher_draws=100, rate_sequences=4),
        0,
        store(world, 1, "evaluation"),
    )
    assert report["covariance"]["codecs"][0]["bits_per_token"] > 0


def test_pictures_must_be_pictures_with_names_of_their_own(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    source = ImageSource(source=FilesSource(kind="files", path=f"{tmp_path}/*.png"))
    fetch_images([source], tmp_path / "images.parquet")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.png").write_bytes(b"another")
    deep = ImageSource(source=FilesSource(kind="files", path=f"{tmp_path}/**/*.png"))
    with pytest.raises(InputError, match="two pictures are named 'a'"):
        fetch_images([deep], tmp_path / "other.parquet")
    bad = source.model_copy(update={"label": "("})
    with pytest.raises(SettingsError, match="no expression"):
        fetch_images([bad], tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no picture matches"):
        none = ImageSource(source=FilesSource(kind="files", path=f"{tmp_path}/*.gif"))
        fetch_images([none], tmp_path / "other.parquet")
