"""Whatever a user does wrong: one line that names it, an exit status, and nothing left behind."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from small_world import save_for, uniform, write_store
from splitcodec.activations.store import Activations
from splitcodec.codecs.registry import build_codec
from splitcodec.evaluation.bitstreams import encode
from splitcodec.inputs.models import fetch_model
from splitcodec.settings import RandomSource
from splitcodec.training.sensitivity import save_sensitivity


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A sensitivity, two codecs and a bitstream of split 2, and another model."""
    folder = tmp_path_factory.mktemp("made")
    store = world.activations(2, "train")
    meaning = {key: store.metadata[key] for key in ("split", "model_hash")}
    save_sensitivity(folder / "sensitivity", uniform(torch.eye(32).double()), meaning)
    for name in ("int4", "int8"):
        fixed = {"mode": "none", "lambda": None, "seed": None}
        save_for(build_codec(name, 32, {}), store, folder / name, **fixed)
    encode(world.activations(2, "evaluation"), folder / "int4", "raw", folder / "int4.rdc")
    source = RandomSource(kind="random", architecture="llama", blocks=3, channels=32, seed=1)
    fetch_model(source, folder / "model")
    return folder


@pytest.fixture
def extract(run, world, out):
    def extract(model=world.model_directory, tokens=None, split=1):
        tokens = tokens or world.tokens("train")
        flags = ["--model", model, "--tokens", tokens, "--split", split]
        return run("extract", *flags, "--out", out)

    return extract


@pytest.fixture
def train(run, world, made, out):
    def train(codec="klt", rate_weight="0.01", activations=None, sensitivity=None, extra=()):
        activations = activations or world.store(2, "train")
        sensitivity = sensitivity or made / "sensitivity"
        flags = ["--codec", codec, "--activations", activations, "--sensitivity", sensitivity]
        return run("train", *flags, "--lambda", rate_weight, *extra, "--out", out)

    return train


@pytest.fixture
def evaluate(run, world, made, out):
    def evaluate(model=world.model_directory, codec=made / "int4", bitstream=made / "int4.rdc",
                 partition="evaluation", references=None):  # fmt: skip
        references = references or world.store(3, partition)
        flags = ["--activations", world.store(2, partition), "--references", references]
        flags += ["--codec", codec, "--bitstream", bitstream]
        return run("evaluate", "--model", model, *flags, "--bootstrap", 5, "--out", out)

    return evaluate


def truncated(path, tmp_path):
    copy = tmp_path / f"cut-{path.name}"
    copy.write_bytes(path.read_bytes()[:-50])
    return copy


def test_an_unknown_model_directory(extract, tmp_path):
    assert "nowhere holds no model" in extract(model=tmp_path / "nowhere").complaint


def test_one_changed_bit_of_a_models_weights(extract, world, tmp_path):
    model = Path(shutil.copytree(world.model_directory, tmp_path / "model"))
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-7] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert (
        f"{model} is damaged or was changed (its weights_sha256 is another)"
        in extract(model=model).complaint
    )


@pytest.mark.parametrize("split", [0, -1, 4, 99])
def test_a_split_out_of_range(extract, split):
    assert (
        f"split {split} is out of range: this model has 3 blocks" in extract(split=split).complaint
    )


def test_two_token_files_of_one_partition(run, world, out, tmp_path):
    other = Path(shutil.copy(world.tokens("train"), tmp_path / "other.parquet"))
    both = ["--tokens", world.tokens("train"), "--tokens", other]
    flags = ["--model", world.model_directory, *both, "--split", 1, "--out", out]
    assert "two files of one partition" in run("extract", *flags).complaint


def test_a_split_that_leaves_nothing_behind_it(extract):
    assert "split 3 leaves no block behind" in extract(split=3).complaint


def test_missing_tokens(extract, tmp_path):
    assert "none.parquet does not exist" in extract(tokens=tmp_path / "none.parquet").complaint


def test_truncated_tokens(extract, world, tmp_path):
    complaint = extract(tokens=truncated(world.tokens("train"), tmp_path)).complaint
    assert "cut-train.parquet is damaged" in complaint


def test_documents_in_place_of_tokens(extract, world):
    assert "holds text, not tokens" in extract(tokens=world.documents).complaint


def test_tokens_of_another_model(extract, made):
    assert "is not the model" in extract(model=made / "model").complaint


@pytest.mark.parametrize("rate_weight", ["-0.01", "0", "nan", "inf"])
def test_a_bad_lambda(train, rate_weight):
    assert "klt needs --lambda above zero" in train(rate_weight=rate_weight).complaint


def test_an_unknown_codec(train):
    assert "unknown codec 'vq'; known are" in train(codec="vq").complaint


def test_a_baseline_is_not_trained(train):
    assert "int4 has no λ" in train(codec="int4").complaint


@pytest.mark.parametrize(
    "pair, said",
    [
        ("widht=16", "widht: unknown key"),
        ("steps=-1", "steps: Input should be greater than or equal to 0"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("steps", "steps: "),
        ("steps=[", "cannot read '['"),
        ("width=17", "no multiple of heads"),
    ],
)
def test_a_bad_hyperparameter(train, pair, said):
    assert said in train(codec="hyperprior", extra=["--set", pair]).complaint


def test_a_missing_store(train, tmp_path):
    complaint = train(activations=tmp_path / "none.parquet").complaint
    assert "none.parquet does not exist" in complaint


def test_a_truncated_store(train, world, tmp_path):
    complaint = train(activations=truncated(world.store(2, "train"), tmp_path)).complaint
    assert "is damaged" in complaint


def test_a_missing_sensitivity(train, tmp_path):
    assert "run `splitcodec sensitivity`" in train(sensitivity=tmp_path / "none").complaint


def test_a_sensitivity_of_another_split(train, world):
    assert "is of split 2" in train(activations=world.store(1, "train")).complaint


def test_polishing_without_its_stores(train):
    assert "polishing needs --model, --references" in train(codec="hyperprior").complaint


def test_polishing_with_another_model(train, made):
    complaint = train(codec="hyperprior", extra=["--model", made / "model"]).complaint
    assert "is not the model" in complaint


def test_an_unknown_baseline(run, world, out):
    done = run("baselines", "--codec", "int9", "--activations", world.store(2, "train"),
               "--out", out)  # fmt: skip
    assert "unknown codec 'int9'" in done.complaint


@pytest.mark.parametrize("coder", ["ans", "lzma"])
def test_a_coder_that_the_codec_has_not(run, world, made, out, coder):
    done = run("encode", "--codec", made / "int4", world.store(2, "evaluation"),
               "--coder", coder, "--out", out)  # fmt: skip
    assert f"int4 has no coder '{coder}'" in done.complaint


def test_a_missing_codec(run, world, out, tmp_path):
    done = run("encode", "--codec", tmp_path / "none", "--coder", "raw",
               world.store(2, "evaluation"), "--out", out)  # fmt: skip
    assert "codec.json does not exist" in done.complaint


def test_a_store_of_another_split(run, world, made, out):
    done = run("encode", "--codec", made / "int4", "--coder", "raw",
               world.store(1, "evaluation"), "--out", out)  # fmt: skip
    assert "made for split 2" in done.complaint


@pytest.mark.parametrize("verb", ["latency", "bounds"])
def test_a_codec_of_another_split(run, world, made, out, tmp_path, verb):
    codec = made / "int4"
    if verb == "bounds":
        store = world.activations(2, "train")
        codec = save_for(build_codec("klt", 32, {}, kept=32), store, tmp_path / "klt")
    done = run(verb, "--activations", world.store(1, "train"), "--codec", codec, "--out", out)
    assert "was made for split 2" in done.complaint


def test_bounds_with_a_sensitivity_of_another_split(run, world, made, out):
    flags = ["--activations", world.store(1, "train"), "--sensitivity", made / "sensitivity"]
    done = run("bounds", *flags, "--codec", made / "int4", "--out", out)
    assert "is of split 2" in done.complaint


def test_a_validation_store_of_another_model(train, world, made, tmp_path):
    write_store(tmp_path / "other.parquet", [torch.zeros(20, 32)], split=2, partition="validation")
    extra = ["--mode", "back", "--model", world.model_directory]
    extra += ["--validation", tmp_path / "other.parquet"]
    assert "is not the model that the given files" in train(extra=extra).complaint


def test_references_of_other_tokens(run, world, out):
    flags = ["--activations", world.store(3, "evaluation"), "--train-tokens", world.tokens("train")]
    flags += ["--tokens", world.tokens("validation"), "--out", out]
    done = run("references", "--model", world.model_directory, *flags)
    assert "was not extracted from" in done.complaint


@pytest.mark.parametrize(
    "split, partition, said",
    [(1, "validation", "do not hold the same tokens"), (2, "train", "two stores are of one split")],
)
def test_sensitivities_of_stores_that_do_not_go_together(run, world, out, split, partition, said):
    flags = ["--activations", world.store(2, "train"), "--activations"]
    flags += [world.store(split, partition), "--out", out]
    assert said in run("sensitivity", "--model", world.model_directory, *flags).complaint


def test_a_codec_without_its_bitstream(run, world, made, tmp_path):
    flags = ["--activations", world.store(2, "evaluation"), "--bitstream", made / "int4.rdc"]
    flags += ["--references", world.store(3, "evaluation"), "--bootstrap", 5]
    for name in ("int4", "int8"):
        flags += ["--codec", made / name, "--out", tmp_path / f"{name}.json"]
    done = run("evaluate", "--model", world.model_directory, *flags)
    assert "no --bitstream was made by the codec in" in done.complaint
    assert not (tmp_path / "int8.json").exists()


def test_a_directory_where_a_file_is_due(run, made):
    assert "name a file" in run("inspect", made / "int4").complaint


def test_unequal_numbers_of_flags(run, world, made, out):
    done = run("encode", "--codec", made / "int4", "--codec", made / "int8", "--coder", "raw",
               world.store(2, "evaluation"), "--out", out)  # fmt: skip
    assert "one --coder and one --out for each --codec" in done.complaint


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign"])
def test_a_damaged_bitstream(run, world, made, out, tmp_path, damage):
    data = bytearray((made / "int4.rdc").read_bytes())
    if damage == "cut":
        data = data[:-1]
    elif damage == "flip":
        data[len(data) // 2] ^= 4
    else:
        data = b"PAR1" + data
    (tmp_path / "bad.rdc").write_bytes(data)
    done = run("decode", tmp_path / "bad.rdc", "--codec", made / "int4",
               "--activations", world.store(2, "evaluation"), "--out", out)  # fmt: skip
    assert "bad.rdc is" in done.complaint
    assert "bad.rdc is" in run("inspect", tmp_path / "bad.rdc", "--verify").complaint


def test_the_wrong_codec(evaluate, made):
    assert "which is not in" in evaluate(codec=made / "int8").complaint


def test_other_data(evaluate):
    assert "made from other data" in evaluate(partition="validation").complaint


def test_the_wrong_references(evaluate, world):
    assert "same tokens" in evaluate(references=world.store(3, "validation")).complaint
    assert "is of split 1" in evaluate(references=world.store(1, "evaluation")).complaint


def test_evaluation_with_another_model(evaluate, made):
    assert "is not the model" in evaluate(model=made / "model").complaint


def test_a_damaged_codec(evaluate, made, tmp_path):
    (tmp_path / "codec").mkdir()
    for name in ("codec.json", "codec.safetensors"):
        (tmp_path / "codec" / name).write_bytes((made / "int4" / name).read_bytes()[:-2])
    assert "codec.json" in evaluate(codec=tmp_path / "codec").complaint


def test_bounds_with_references_of_another_make(run, world, made, out):
    flags = ["--activations", world.store(2, "train"), "--references", made / "int4/codec.json"]
    done = run("bounds", *flags, "--out", out)
    assert "codec.json was not made by splitcodec references" in done.complaint


def test_bounds_of_a_codec_without_transform(run, world, made, out):
    done = run("bounds", "--activations", world.store(2, "evaluation"), "--codec", made / "int4",
               "--out", out)  # fmt: skip
    assert "no transform to bound" in done.complaint


@pytest.mark.parametrize(
    "rule, said",
    [
        ("train: {share: [0, 1]}", "train.sequences: Field required"),
        ("train: {documents: [a], between: [1, 2], sequences: 1}", "exactly one"),
        ("train: {documents: [none*], sequences: 1}", "selects none"),
        ("train: [", "cannot read"),
        ("train", "no mapping"),
    ],
)
def test_a_bad_rule(run, world, out, rule, said):
    done = run("tokenise", "--documents", world.documents, "--model", world.model_directory,
               "--rule", rule, "--out", out)  # fmt: skip
    assert said in done.complaint


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--partition", "test"], "no --rule is of partition test; give one"),
        (["--shard", "3/2"], "'3/2' is no part of a whole"),
    ],
)
def test_a_bad_part(run, world, out, flags, said):
    rest = ["--model", world.model_directory, "--rule", "train: {share: [0, 1], sequences: 1}"]
    for verb in (["tokenise", "--documents", world.documents], ["prepare", "--images", out]):
        assert said in run(*verb, *rest, *flags, "--out", out).complaint


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--dataset", "a/b", "--documents", "0"], "documents: Input should be greater than 0"),
        (["--documents", "3"], "dataset: Field required"),
        (["--dataset", "/nowhere/at/all"], "correct the name, or put data files there"),
    ],
)
def test_a_bad_data_set(run, out, flags, said):
    assert said in run("fetch-text", "--kind", "dataset", *flags, "--out", out).complaint


def test_pretraining_needs_the_rule_of_its_partition(run, world, out):
    rule = "evaluation: {share: [0, 1], sequences: 1}"
    done = run("pretrain", "--documents", world.documents, "--rule", rule, "--out", out)
    assert "no --rule for partition train; there are evaluation" in done.complaint


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--kind", "ftp"], "'ftp'"),
        (["--kind", "random", "--architecture", "opt"], "architecture"),
        (["--kind", "files"], "path: Field required"),
        (["--kind", "files", "--path", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--kind", "pip", "--package", "a", "--version", "1", "--path", "x", "--sha256", "z"],
         "sha256"),
    ],
)  # fmt: skip
def test_a_bad_source(run, out, flags, said):
    assert said in run("fetch-model", *flags, "--out", out).complaint


def test_a_place_that_cannot_be_written(run, world, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("baselines", "--codec", "int4", "--activations", world.store(2, "train"),
               "--out", tmp_path / "file")  # fmt: skip
    assert "Not a directory" in done.complaint or "File exists" in done.complaint
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_earlier_result_is_spared(evaluate, made, tmp_path, world):
    store = Activations(world.store(2, "evaluation"))
    target = tmp_path / "kept.rdc"
    encode(store, made / "int8", "raw", target)
    before = target.read_bytes()
    assert evaluate(codec=made / "int4", bitstream=target).complaint
    assert target.read_bytes() == before


def test_the_installed_program(tmp_path, world):
    """As a process of its own: exit status, streams, no traceback."""
    program = [sys.executable, "-c", "from splitcodec.cli import main; main()"]
    flags = ["--model", tmp_path / "none", "--tokens", world.tokens("train"), "--split", "1"]
    done = subprocess.run(
        [*program, "extract", *map(str, flags), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
