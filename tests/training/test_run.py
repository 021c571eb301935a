import json
import math

import pytest
import torch

from small_world import one_line, uniform
from splitcodec.codecs.registry import load_codec
from splitcodec.errors import InputError, SettingsError
from splitcodec.training.run import Material, recipe, set_rate, train
from splitcodec.training.sensitivity import save_sensitivity

SPLIT = 2
SMALL = {
    "side_channels": 4,
    "width": 16,
    "heads": 2,
    "steps": 4,
    "polish_steps": 2,
    "batch_tokens": 256,
    "polish_batch_tokens": 128,
}


@pytest.mark.parametrize("rate_weight", [-0.01, 0.0, math.nan, math.inf, None])
@pytest.mark.parametrize("codec", ["klt", "hyperprior"])
def test_a_learned_codec_needs_a_lambda(codec, rate_weight):
    with pytest.raises(SettingsError, match=rf"{codec} needs --lambda above zero") as caught:
        recipe(codec, [] if rate_weight is None else [rate_weight], 0, {})
    assert one_line(caught.value)


@pytest.mark.parametrize("codec", ["fp16", "int4"])
def test_a_baseline_has_none(codec):
    with pytest.raises(SettingsError, match=f"{codec} has no λ") as caught:
        recipe(codec, [0.1], 0, {})
    assert one_line(caught.value)
    assert recipe(codec, [], 0, {}).rate_weight is None


@pytest.mark.parametrize(
    "codec, changes, place",
    [
        ("hyperprior", {"widht": 3}, "widht"),
        ("klt", {"width": 16}, "width"),
        ("hyperprior", {"steps": -1}, "steps"),
        ("hyperprior", {"learning_rate": "fast"}, "learning_rate"),
        ("hyperprior", {"learning_rate": math.inf}, "learning_rate"),
        ("hyperprior", {"width": 17}, "width"),
        ("hyperprior", {"heads": None}, "heads"),
        ("klt", {"shrinkage": 0}, "shrinkage"),
    ],
)
def test_bad_hyperparameters_name_their_place(codec, changes, place):
    with pytest.raises(SettingsError, match=rf"hyper-parameters of {codec}: .*{place}") as caught:
        recipe(codec, [0.1], 0, changes)
    assert one_line(caught.value)


def test_an_unknown_codec_names_the_known():
    with pytest.raises(SettingsError, match="unknown codec 'vq'; known are klt, trellis, fact"):
        recipe("vq", [0.1], 0, {})


def fit(world, folder, material, codec="klt", split=SPLIT, rate_weight=0.01, **changes):
    made = Material(checkpoint=folder.with_suffix(".checkpoint"), **material)
    weights = [rate_weight] if isinstance(rate_weight, float) else rate_weight
    train(recipe(codec, weights, 7, changes), world.store(split, "train"), folder, made)
    return folder


@pytest.mark.parametrize("codec, changes", [("klt", {}), ("hyperprior", SMALL)])
def test_the_folder_says_what_the_codec_is(world, material, tmp_path, codec, changes):
    folder = fit(world, tmp_path / "codec", material, codec, **changes)
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"codec.safetensors", "codec.json", "training.jsonl"}
    loaded, meaning = load_codec(folder)
    metadata = world.activations(SPLIT, "train").metadata
    expected = {"codec": codec, "mode": "frozen", "lambda": 0.01, "seed": 7, "split": SPLIT}
    expected |= {key: metadata[key] for key in ("model", "model_hash", "data_hash", "channels")}
    assert meaning.items() >= expected.items()
    assert meaning["hyperparameters"].items() >= changes.items()
    assert meaning["train_seconds"] > 0
    assert {"splitcodec", "torch", "torch_ans"} <= meaning["versions"].keys()
    lines = (folder / "training.jsonl").read_text().splitlines()
    assert bool(lines) == (codec == "hyperprior")
    assert all(json.loads(line)["loss"] > 0 for line in lines)
    assert loaded.kept > 0


def test_training_twice_gives_the_same_hash(world, material, tmp_path):
    folders = [fit(world, tmp_path / x, material, "hyperprior", **SMALL) for x in "ab"]
    hashes = {load_codec(folder)[1]["hash"] for folder in folders}
    assert len(hashes) == 1
    other = fit(world, tmp_path / "c", material, "hyperprior", rate_weight=0.02, **SMALL)
    assert load_codec(other)[1]["hash"] not in hashes


def test_a_baseline_needs_only_a_store(world, tmp_path):
    train(recipe("int4", [], 5, {}), world.store(SPLIT, "train"), tmp_path / "int4")
    codec, meaning = load_codec(tmp_path / "int4", "zstd")
    assert (meaning["mode"], meaning["lambda"], meaning["seed"]) == ("none", None, None)
    assert codec.channels == 32
    assert (tmp_path / "int4" / "training.jsonl").read_text() == ""


def test_a_sensitivity_of_another_split_is_refused(world, material, tmp_path):
    with pytest.raises(InputError, match=r"is of split 2.*of 1") as caught:
        fit(world, tmp_path / "codec", material, split=1)
    assert one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_sensitivity_of_another_width_is_refused(world, material, tmp_path):
    path = tmp_path / "narrow.safetensors"
    save_sensitivity(path, uniform(torch.eye(8).double()), {"split": SPLIT})
    with pytest.raises(InputError, match="narrow"):
        fit(world, tmp_path / "codec", material | {"sensitivity": path})


def test_a_sensitivity_of_another_model_is_refused(world, material, tmp_path):
    path = tmp_path / "foreign.safetensors"
    channels = world.activations(SPLIT, "train").channels
    meaning = {"split": SPLIT, "model_hash": "another"}
    save_sensitivity(path, uniform(torch.eye(channels).double()), meaning)
    with pytest.raises(InputError, match="is of model another"):
        fit(world, tmp_path / "codec", material | {"sensitivity": path})


@pytest.mark.parametrize("missing", ["references", "validation", "validation_references", "model"])
def test_polishing_says_what_is_missing(world, material, tmp_path, missing):
    flag = "--" + missing.replace("_", "-")
    with pytest.raises(InputError, match=rf"polishing needs {flag}; or --set") as caught:
        fit(world, tmp_path / "codec", material | {missing: None}, "hyperprior", **SMALL)
    assert one_line(caught.value)
    fit(
        world, tmp_path / "codec", material | {missing: None}, "hyperprior", polish_steps=0, steps=1
    )


@pytest.mark.parametrize("wrong", ["references", "validation_references"])
def test_references_of_other_tokens_are_refused(world, material, tmp_path, wrong):
    stores = material | {wrong: world.store(3, "evaluation")}
    with pytest.raises(InputError, match="same tokens") as caught:
        fit(world, tmp_path / "codec", stores, "hyperprior", **SMALL)
    assert one_line(caught.value)
    assert not (tmp_path / "codec").exists()


@pytest.mark.parametrize(
    "wrong, split, partition",
    [
        ("references", 2, "train"),
        ("validation", 1, "validation"),
        ("validation_references", 1, "validation"),
    ],
)
def test_stores_of_another_split_are_refused(world, material, tmp_path, wrong, split, partition):
    stores = material | {wrong: world.store(split, partition)}
    with pytest.raises(InputError, match=f"is of split {split}, where") as caught:
        fit(world, tmp_path / "codec", stores, "hyperprior", **SMALL)
    assert one_line(caught.value)
    assert not (tmp_path / "codec").exists()


def test_a_missing_store_is_named(world, material, tmp_path):
    with pytest.raises(InputError, match=r"none\.parquet does not exist"):
        made = Material(checkpoint=tmp_path / "c", **material)
        train(recipe("klt", [0.1], 0, {}), tmp_path / "none.parquet", tmp_path / "codec", made)
    assert list(tmp_path.iterdir()) == []


def test_one_codec_serves_every_lambda_between_those_it_was_trained_for(world, material, tmp_path):
    weights, batch = [0.002, 0.02], world.activations(SPLIT, "evaluation").read([0, 1])
    shared = fit(world, tmp_path / "shared", material, rate_weight=weights, levels=4)
    rates = []
    for weight in (0.002, 0.006, 0.02):
        set_rate(shared, weight, tmp_path / f"{weight}")
        codec, meaning = load_codec(tmp_path / f"{weight}")
        assert meaning["lambda"] == weight
        assert "lambdas" not in meaning
        streams = codec.compress(batch.representation, batch.lengths)
        codec.decompress(streams, batch.lengths)
        rates.append(sum(map(len, streams)))
    assert rates[0] > rates[1] > rates[2]
    with pytest.raises(SettingsError, match=r"serves λ from 0\.002 to 0\.02, not 0\.03"):
        set_rate(shared, 0.03, tmp_path / "beyond")
    with pytest.raises(InputError, match="codec of one λ"):
        set_rate(tmp_path / "0.006", 0.006, tmp_path / "again")
    assert not (tmp_path / "beyond").exists()


def test_each_of_several_lambdas_comes_once():
    with pytest.raises(SettingsError, match="has each of them once"):
        recipe("klt", [2.5e-4, 2.5e-4], 0, {})


def test_a_trellis_is_put_into_a_codec_that_has_learned(world, material, tmp_path):
    """To the same codec as where all is done in one."""
    changes = SMALL | dict(codec="direct-access", levels=4, rate_weight=[0.002, 0.02])
    trellis = changes | {"trellis": True}
    whole = fit(world, tmp_path / "whole", material, **trellis)
    plain = fit(world, tmp_path / "plain", material, **changes)
    start = material | {"start": plain}
    put = fit(world, tmp_path / "put", start, **trellis)
    first, second, before = (
        json.loads((at / "codec.json").read_text()) for at in (whole, put, plain)
    )
    assert first["hash"] == second["hash"] != before["hash"]
    assert second["train_seconds"] > before["train_seconds"]
    logs = [(at / "training.jsonl").read_text().splitlines() for at in (plain, put, whole)]
    assert logs[0] == logs[1][:-4]
    assert logs[1][-4:] == logs[2][-4:]
    with pytest.raises(InputError, match="a trellis needs --model, --validation, --validation-ref"):
        fit(world, tmp_path / "blind", {k: start[k] for k in ("sensitivity", "start")}, **trellis)

    with pytest.raises(InputError, match="is of another hyperparameters; --start takes") as caught:
        fit(world, tmp_path / "wider", start, **trellis | {"levels": 5})
    assert one_line(caught.value)
    set_rate(plain, 0.02, tmp_path / "one")
    one = material | {"start": tmp_path / "one"}
    with pytest.raises(InputError, match="was made by set-rate; --start takes what was trained"):
        fit(world, tmp_path / "rate", one, **trellis | {"rate_weight": 0.02})
    with pytest.raises(InputError, match="is of another lambda, lambdas; --start takes"):
        fit(world, tmp_path / "rate", start, **trellis | {"rate_weight": 0.02})
    with pytest.raises(InputError, match="is of another hyperparameters"):
        fit(world, tmp_path / "again", material | {"start": put}, **trellis)
    with pytest.raises(SettingsError, match="--start is for --set trellis=true"):
        fit(world, tmp_path / "none", start, **changes)
