import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from splitcodec.errors import InputError, SettingsError
from splitcodec.plan import Device, Shape, measured, plan, shape_of
from splitcodec.settings import load_settings
from workflow_runs import snakemake

PARAMS = Path(__file__).resolve().parents[2] / "params"
PAPER = yaml.safe_load((PARAMS / "paper.yaml").read_text())
GPT2 = Shape(12, 768, 50257)


def planned(values, shapes=None):
    settings = load_settings(values)
    shapes = shapes or {model.name: GPT2 for model in settings.models}
    return {line.phase: line for line in plan(settings, shapes, Device(100, 1.0))}


@pytest.mark.parametrize("name", ["tiny", "paper", "frontier"])
def test_jobs_are_those_of_the_workflow(name, tmp_path):
    assert_jobs_are_those_of_the_workflow(PARAMS / f"{name}.yaml", tmp_path)


def test_shards_are_jobs_and_so_is_joining_them(tmp_path):
    values = yaml.safe_load((PARAMS / "frontier.yaml").read_text())
    values["text"]["shards"], values["activations"]["shards"] = 5, 3
    params = tmp_path / "sharded.yaml"
    params.write_text(yaml.safe_dump(values))
    assert_jobs_are_those_of_the_workflow(params, tmp_path)


def assert_jobs_are_those_of_the_workflow(params, tmp_path):
    told = sum(line.jobs for line in planned(yaml.safe_load(params.read_text())).values())
    run = snakemake(tmp_path, "--dry-run", "--quiet", "rules", config=params)
    total = int(re.search(r"^total\s+(\d+)", run.stdout, re.MULTILINE)[1])
    assert told == total - 1, "all is no job"


def test_weights_of_gpt2_are_those_published():
    # 124 M, of which position embeddings, biases and norms take part in no product
    assert GPT2.weights == pytest.approx(123.5e6, rel=0.005)


def test_training_is_six_operations_a_weight_and_token():
    values = copy.deepcopy(PAPER)
    values["models"] = values["models"][:1]
    values["models"][0]["splits"] = [3]
    values["codecs"] = values["codecs"][:1]
    values["codecs"][0]["lambdas"] = [1e-3]
    one = planned(values)["codecs"].gpu_hours
    assert one == pytest.approx(6 * GPT2.weights * 600 * 480 * 1024 / 1e14 / 3600)
    values["codecs"][0]["lambdas"] = [1e-3, 1e-2]
    values["seeds"] = [0, 1, 2]
    assert planned(values)["codecs"].gpu_hours == pytest.approx(6 * one)


def test_a_measured_device_is_as_fast_as_the_trainings_were(tmp_path):
    models = tmp_path / "models"
    for name, blocks in (("small", 4), ("other", 6)):
        (models / name).mkdir(parents=True)
        config = {"n_layer": blocks, "n_embd": 10, "vocab_size": 20}
        (models / name / "config.json").write_text(json.dumps(config))
    # A token of the whole small model takes 6 · (12 · 4 · 10² + 20 · 10) operations.
    trained(tmp_path / "codecs/a", "end-to-end", "small", [1, 700, 900, 800])
    trained(tmp_path / "codecs/b", "back-adapters", "other", [1, 800])
    trained(tmp_path / "codecs/c", "frozen", "small", [])
    speeds = [6 * 5000 * 800, 6 * 7400 * 800 * (1 - 1 / 6)]
    found = measured(tmp_path, models)
    assert found.hours(3600 * sum(speeds) / 2) == pytest.approx(1)


def trained(folder, mode, model, speeds):
    folder.mkdir(parents=True)
    meaning = {"mode": mode, "model": model, "split": 1}
    (folder / "codec.json").write_text(json.dumps(meaning))
    entries = [{"phase": "tuning", "tokens_per_second": speed} for speed in speeds]
    entries.append({"phase": "tuning_validation", "step": 9})
    (folder / "training.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))


def test_without_a_training_nothing_is_measured(tmp_path):
    with pytest.raises(InputError, match="no model has learned"):
        measured(tmp_path)
    trained(tmp_path / "codecs/a", "end-to-end", "small", [1, 2])
    with pytest.raises(InputError, match="small is gone, on which"):
        measured(tmp_path, tmp_path / "models")


def test_storage_follows_the_stored_sequences():
    few = planned(PAPER)["activations"].bytes
    values = {**PAPER, "activations": {}}
    everything = planned(values)["activations"].bytes
    train, held_out = 288000 * 1024, (64 + 1000) * 1024
    assert everything == 2 * 768 * 2 * (3 * train + 4 * held_out)
    assert few < everything / 100
    values["codecs"] = [{"name": "klt", "lambdas": [1e-3]}, {"name": "factorised", "lambdas": [1]}]
    assert planned(values)["activations"].bytes == 2 * 768 * 2 * 4 * (train + held_out)


def test_the_shape_of_an_unknown_model_must_be_given():
    values = copy.deepcopy(PAPER)
    values["models"][0]["source"]["repository"] = "lab/other"
    model = load_settings(values).models[0]
    with pytest.raises(SettingsError, match="--shape gpt2="):
        shape_of(model, {}, Path("nowhere"))
    assert shape_of(model, {"gpt2": GPT2}) == GPT2


@pytest.mark.parametrize("config", ["{", '{"n_layer": "x", "n_embd": 8, "vocab_size": 9}'])
def test_a_damaged_configuration(config, tmp_path):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/config.json").write_text(config)
    with pytest.raises(InputError, match="delete"):
        shape_of(load_settings(PAPER).models[0], {}, tmp_path)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 1), (1, 1, -1), ("x", 1, 1)])
def test_no_shape(sizes):
    with pytest.raises((TypeError, ValueError)):
        Shape.of(sizes)


def test_models_of_images_are_not_planned():
    settings = load_settings(PARAMS / "vision.yaml")
    with pytest.raises(SettingsError, match="reads images"):
        shape_of(settings.models[0], {})
