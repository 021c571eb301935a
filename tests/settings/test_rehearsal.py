from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from splitcodec.cli.common import app
from splitcodec.rehearsal import rehearsal
from splitcodec.settings import load_settings

FILES = sorted(Path("params").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_experiment_has_a_rehearsal_with_all_its_codecs(file):
    whole = load_settings(file)
    small = load_settings(rehearsal(whole))
    kept = ("name", "codec", "mode", "lambdas", "shared", "start")
    for codec, own in zip(whole.codecs, small.codecs, strict=True):
        assert [getattr(codec, key) for key in kept] == [getattr(own, key) for key in kept]
        assert getattr(own.hyperparameters, "steps", 0) <= 3
        assert own.tuning.steps <= 3 or own.mode == "frozen"
    assert small.baselines == whole.baselines
    assert [task.name for task in small.tasks] == [task.name for task in whole.tasks]
    data = small.text or small.images
    assert all(partition.sequences <= 16 for partition in data.partitions.values())


def test_a_rehearsal_takes_nothing_of_the_experiment_s_place():
    whole = load_settings(Path("params/frontier.yaml"))
    small = rehearsal(whole)
    assert small["experiment"] == "frontier-rehearsal"
    assert small["models"][0]["name"] != whole.models[0].name
    assert small["text"]["name"] != whole.text.name


def test_hyperparameters_that_say_what_a_codec_is_stay():
    whole = load_settings(Path("params/frontier.yaml"))
    small = {codec["name"]: codec["set"] for codec in rehearsal(whole)["codecs"]}
    assert small["context-polished-trellis"]["trellis"]
    assert small["context-polished-trellis"]["width"] == 192
    assert small["hyperprior-fourier"]["side_density"] == "fourier"
    assert small["context-tokens-polished"]["tokens"]


def test_batches_divide_what_a_step_takes():
    whole = load_settings(Path("params/tiny.yaml")).model_dump(exclude_unset=True)
    whole["codecs"][-1]["tuning"] |= {"sequences": 9, "batch_sequences": 3}
    tuning = rehearsal(load_settings(whole))["codecs"][-1]["tuning"]
    assert (tuning["sequences"], tuning["batch_sequences"]) == (9, 1)


def test_few_sequences_are_shared_by_few_jobs():
    whole = load_settings(Path("params/tiny.yaml")).model_dump(exclude_unset=True)
    whole["text"] |= {"shards": 32}
    whole["activations"] = {"shards": 32}
    small = load_settings(rehearsal(load_settings(whole)))
    assert (small.text.shards, small.activations.shards) == (2, 2)


@pytest.mark.parametrize("rule, read", [({"share": [0, 0.5]}, 1000), ({"between": [1, 9]}, 9000)])
def test_the_beginning_of_a_stream_is_read_where_partitions_are_shares(rule, read):
    whole = load_settings(Path("params/tiny.yaml")).model_dump(exclude_unset=True)
    whole["text"]["source"] = {"kind": "dataset", "dataset": "lab/toy", "documents": 9000}
    for partition in whole["text"]["partitions"].values():
        partition |= {"share": None, **rule}
    assert rehearsal(load_settings(whole))["text"]["source"]["documents"] == read


def test_the_verb_writes_a_params_file(tmp_path):
    out = tmp_path / "small.yaml"
    done = CliRunner().invoke(app, ["rehearse", "params/vision.yaml", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert load_settings(out).experiment == "vision-rehearsal"
    assert yaml.safe_load(out.read_text())["models"][0]["reads"] == "images"
