import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from splitcodec.errors import SettingsError
from splitcodec.settings import Codec, Settings, load_settings

PARAMS = Path(__file__).parents[2] / "params"
TINY = yaml.safe_load((PARAMS / "tiny.yaml").read_text())


def changed(place, value):
    """The tiny parameters with one value set (or removed) at a dotted place."""
    values = copy.deepcopy(TINY)
    *parents, last = (int(part) if part.isdigit() else part for part in place.split("."))
    inner = values
    for part in parents:
        inner = inner[part]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return values


REMOVED = object()


def complaint(values):
    with pytest.raises(SettingsError) as caught:
        load_settings(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_params_file_of_the_repository_is_valid(path):
    assert load_settings(path).models


def test_what_is_not_named_has_its_default():
    settings = load_settings({key: TINY[key] for key in ("experiment", "models", "text")})
    assert settings.seeds == [0]
    assert settings.codecs == []
    assert settings.evaluation.bootstrap == 1000
    assert settings.models[0].dtype == "float32"


BAD = {
    "unknown key": ("expriment", "x", "expriment", "did you mean experiment?"),
    "unknown inner key": ("models.0.split", [1], "models.0.split", "did you mean splits?"),
    "missing key": ("experiment", REMOVED, "experiment", "required"),
    "negative λ": ("codecs.0.lambdas", [0.1, -0.1], "codecs.0.lambdas.1", "greater than 0"),
    "λ zero": ("codecs.0.lambdas", [0], "codecs.0.lambdas.0", "greater than 0"),
    "λ infinite": ("codecs.0.lambdas", [float("inf")], "codecs.0.lambdas.0", "finite"),
    "λ not a number": ("codecs.0.lambdas", ["low"], "codecs.0.lambdas.0", "number"),
    "no λ": ("codecs.0.lambdas", [], "codecs.0", "needs lambdas"),
    "λ twice": ("codecs.0.lambdas", [0.1, 0.1], "codecs.0.lambdas", "twice"),
    "unknown codec": (
        "codecs.0.name",
        "vq",
        "codecs.0.codec",
        "klt, trellis, factorised, hyperprior, direct-access",
    ),
    "baseline with λ": ("codecs.0.name", "int4", "codecs.0.name", "baselines"),
    "misspelt hyper-parameter": ("codecs.1.set.widht", 8, "codecs.1.set.widht", "mean width?"),
    "bad hyper-parameter": ("codecs.1.set.steps", -1, "codecs.1.set.steps", "or equal to 0"),
    "width and heads": ("codecs.1.set.width", 18, "codecs.1.set", "no multiple of heads"),
    "codec twice": ("codecs.1", {"name": "klt", "lambdas": [0.5]}, "codecs", "twice: klt"),
    "model twice": ("models", TINY["models"] * 2, "models", "twice: random-llama"),
    "learned baseline": ("baselines.codecs", ["fp16", "klt"], "baselines.codecs", "not a baseline"),
    "unknown baseline": ("baselines.codecs", ["int9"], "baselines.codecs", "int2 to int8"),
    "unknown coder": ("baselines.coders", ["lzma"], "baselines.coders.0", "'deflate'"),
    "split zero": ("models.0.splits", [1, 0], "models.0.splits.1", "greater than 0"),
    "split negative": ("models.0.splits", [-2], "models.0.splits.0", "greater than 0"),
    "split not whole": ("models.0.splits", [1.5], "models.0.splits.0", "integer"),
    "split twice": ("models.0.splits", [2, 2], "models.0.splits", "twice"),
    "no split": ("models.0.splits", [], "models.0.splits", "at least 1"),
    "unknown dtype": ("models.0.dtype", "float64", "models.0.dtype", "'bfloat16'"),
    "unknown source": ("models.0.source.kind", "ftp", "models.0.source", "'hub'"),
    "unknown architecture": (
        "models.0.source.architecture",
        "opt",
        "models.0.source.random.architecture",
        "'llama'",
    ),
    "path in a name": ("models.0.name", "a/b", "models.0.name", "match"),
    "missing partition": ("text.partitions.validation", REMOVED, "text.partitions", "validation"),
    "unknown partition": ("text.partitions.test", {}, "text.partitions.test.[key]", "'train'"),
    "two rules": ("text.partitions.train.between", [1, 2], "text.partitions.train", "exactly one"),
    "no rule": ("text.partitions.train", {"sequences": 3}, "text.partitions.train", "exactly one"),
    "no sequences": ("text.partitions.train.sequences", 0, "text.partitions.train.sequences", "0"),
    "sequence of one": ("text.sequence_length", 1, "text.sequence_length", "equal to 2"),
    "seed negative": ("seeds", [-1], "seeds.0", "or equal to 0"),
    "seed twice": ("seeds", [3, 3], "seeds", "twice: 3"),
    "one sign vector": ("bounds.rademacher_draws", 1, "bounds.rademacher_draws", "equal to 2"),
    "no resamples": ("evaluation.bootstrap", 0, "evaluation.bootstrap", "greater than 0"),
    "key of files": (
        "text.source",
        dict(kind="dataset", dataset="a/b", path="x"),
        "text.source.dataset.path",
        "unknown key",
    ),
    "no document": (
        "text.source",
        dict(kind="dataset", dataset="a/b", documents=0),
        "text.source.dataset.documents",
        "greater than 0",
    ),
    "column of pictures": (
        "text.source",
        dict(kind="dataset", dataset="a/b", image="x"),
        "text.source.dataset.image",
        "unknown key",
    ),
    "checksum": (
        "models.0.source",
        dict(kind="pip", package="a", version="1", sha256="zz", path="x"),
        "models.0.source.pip.sha256",
        "match",
    ),
}


@pytest.mark.parametrize("place, value, named, allowed", BAD.values(), ids=BAD)
def test_a_bad_parameter_gives_one_line_with_its_place(place, value, named, allowed):
    message = complaint(changed(place, value))
    assert f" {named}: " in message
    assert allowed in message


def test_all_complaints_come_at_once():
    values = changed("codecs.0.lambdas", [-1])
    values["seeds"] = []
    message = complaint(values)
    assert "codecs.0.lambdas.0" in message
    assert "seeds" in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "[1,", "a: b: c", "\t- x"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    complaint(path)


def test_a_file_that_is_missing_or_binary(tmp_path):
    assert "nowhere.yaml" in complaint(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml is not YAML" in complaint(tmp_path / "binary.yaml")


def test_settings_do_not_change():
    settings = load_settings(TINY)
    with pytest.raises(ValueError, match="frozen"):
        settings.experiment = "other"


def test_every_parameter_is_described_by_the_schema():
    schema = Settings.model_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["required"] == ["experiment", "models"]


def test_reading_settings_imports_no_torch():
    code = f"""
import sys
from pathlib import Path
from splitcodec.settings import load_settings
load_settings(Path({str(PARAMS / "tiny.yaml")!r}))
assert not {{"torch", "numpy", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "place, value, said",
    [
        ("codecs.2.lambdas", [0.001], "shared is for several λ"),
        ("codecs.2.lambdas", [1e-5, 0.1], "needs levels"),
        ("codecs.2.lambdas", [1e-5, 1.1e-5, 1.2e-5, 1e-3], "needs levels"),  # far from their middle
        ("codecs.2.lambdas", [1e-3, 3.16227766e-3], "write 0.00316228"),
        ("codecs.2.set.levels", 0, "needs levels"),
        ("codecs.2.mode", "back", "mode frozen"),
    ],
)
def test_a_codec_for_all_lambdas_needs_several_and_the_levels_for_them(place, value, said):
    assert TINY["codecs"][2]["shared"]
    assert said in complaint(changed(place, value))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"start": "contxt"}, "there is no codec contxt"),
        ({"start": "klt"}, "klt must have the same settings but for the trellis, and each λ"),
        ({"lambdas": [1e-3, 2e-3]}, "must have the same settings but for the trellis, and each λ"),
        ({"lambdas": [1e-3]}, "shared is for several λ"),
        ({"seeds": [0, 1]}, "and each λ and seed"),
        ({"set": {"trellis": True, "levels": 5}}, "must have the same settings"),
        ({"set": {}}, "start is for set: {trellis: true}"),
        ({"mode": "back", "shared": False}, "a trellis has no gradient"),
    ],
)
def test_a_trellis_starts_from_the_same_codec_without(changes, said):
    values = copy.deepcopy(TINY)
    ours = values["codecs"][2]
    plain = ours | {"name": "plain", "set": {**ours["set"], "trellis": False}}
    values["codecs"] += [plain, started := ours | {"name": "started", "start": "plain"}]
    assert load_settings(values).codecs[-1].start == "plain"
    assert not load_settings(values).codecs[-1].compares_outputs
    started |= changes
    assert said in complaint(values)


def test_settings_are_the_same_however_they_are_written():
    values = copy.deepcopy(TINY)
    ours = values["codecs"][2] | {"shared": False}
    plain = ours | {"name": "plain", "seeds": [0, 1], "set": {**ours["set"], "trellis": False}}
    written = {**ours["set"], "levels": "4", "layers": 1, "trellis": "yes"}
    started = {"start": "plain", "set": written, "lambdas": ours["lambdas"][::-1]}
    values["codecs"] += [plain, ours | {"name": "started"} | started]
    assert load_settings(values).codecs[-1].hyperparameters.levels == 4
    shared = {"name": "s", "shared": True, "set": {"levels": "4"}, "lambdas": [1e-3, 2e-3]}
    values["codecs"] = [shared | {"codec": "klt"}]
    assert load_settings(values).codecs[0].hyperparameters.levels == 4


def test_a_class_in_the_path_is_refused_of_a_data_set():
    values = yaml.safe_load((PARAMS / "vision.yaml").read_text())
    inner = {"kind": "dataset", "dataset": "a/b", "label": "fine_label"}
    values["images"]["sources"] = [{"source": inner}]
    assert load_settings(values).images.sources[0].source.label == "fine_label"
    values["images"]["sources"] = [{"source": inner, "label": "_(.)"}]
    assert "name the column of classes in source.label" in complaint(values)


def test_what_is_for_text_alone_is_refused_with_images():
    values = yaml.safe_load((PARAMS / "vision.yaml").read_text())
    back = {"name": "b", "codec": "int4", "mode": "back"}
    assert "b: token ids, and modes" in complaint(values | {"codecs": [back]})
    task = {"name": "mine", "kind": "files", "path": "items.jsonl"}
    assert "mine: tasks are for models that read text" in complaint(values | {"tasks": [task]})


def test_qualities_of_pictures_are_those_that_formats_have():
    values = yaml.safe_load((PARAMS / "vision.yaml").read_text())
    values["images"]["pictures"] = {"jpeg": [0], "webp": [0, 0]}
    said = complaint(values)
    assert "images.pictures.jpeg.0" in said and "named twice: 0" in said


@pytest.mark.parametrize(
    "codec, compares",
    [
        ({"name": "klt", "lambdas": [0.1]}, False),
        ({"name": "hyperprior", "lambdas": [0.1]}, True),
        ({"name": "hyperprior", "lambdas": [0.1], "set": {"polish_steps": 0}}, False),
        ({"name": "b", "codec": "int4", "mode": "back"}, False),
        ({"name": "b", "codec": "int4", "mode": "back", "tuning": {"loss": "kl"}}, True),
        ({"name": "b", "codec": "hyperprior", "mode": "back", "lambdas": [0.1]}, True),
        ({"name": "e", "codec": "int4", "mode": "end-to-end"}, False),
    ],
)
def test_codecs_that_learn_from_the_output_compare_with_the_uncoded_one(codec, compares):
    assert Codec.model_validate(codec).compares_outputs is compares
