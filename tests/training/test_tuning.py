import json
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
import torch

from small_world import one_line
from splitcodec.codecs.base import load_changes
from splitcodec.codecs.registry import build_codec, load_codec
from splitcodec.coding.container import Container
from splitcodec.errors import InputError, SettingsError
from splitcodec.evaluation.bitstreams import encode, model_of_codec
from splitcodec.evaluation.fidelity import evaluate
from splitcodec.settings import Tuning
from splitcodec.splitting.changes import LEFT, RIGHT
from splitcodec.splitting.model import SplitModel
from splitcodec.training import loop
from splitcodec.training.batches import from_stores, in_batches
from splitcodec.training.run import Material, recipe, train
from splitcodec.training.sensitivity import measure_sensitivity, save_sensitivity
from splitcodec.training.tuning import JointTraining, Learning

SPLIT = 2
SMALL = {"side_channels": 4, "width": 16, "heads": 2, "steps": 3, "polish_steps": 0}
SMALL |= {"batch_tokens": 256}
TUNING = {"steps": 12, "sequences": 8, "batch_sequences": 4, "warm_up_steps": 2, "rank": 2}
TUNING |= {"learning_rate": 1e-3}
CODECS = {
    "hyperprior": (0.01, SMALL),
    "factorised": (0.01, {"steps": 3, "polish_steps": 0, "batch_tokens": 256}),
    "direct-access": (0.01, SMALL),
    "klt": (0.01, {}),
    "trellis": (0.01, {}),
    "fp16": (None, {}),
    "int4": (None, {}),
}


@pytest.fixture(scope="module")
def material(material, world):
    return material | {"tokens": world.tokens("train")}


def fit(world, material, folder, mode, codec="hyperprior", seed=0, **tuning):
    rate_weight, changes = CODECS[codec]
    made = Material(checkpoint=folder.with_suffix(".checkpoint"), **material)
    weights = [] if rate_weight is None else [rate_weight]
    wanted = recipe(codec, weights, seed, changes, "named", mode, TUNING | tuning)
    train(wanted, world.store(SPLIT, "train"), folder, made)
    return folder


def evaluated(world, folder, coder="ans"):
    """The point of a codec's folder, by way of a file."""
    stores = world.activations(SPLIT, "evaluation"), world.activations(3, "evaluation")
    encode(stores[0], folder, coder, folder / "stream", world.model)
    (row,) = evaluate(world.model, *stores, [folder], [folder / "stream"], 2, 20)
    return row


def changed_names(folder):
    names = load_changes(folder, load_codec(folder)[1])
    return {name.removesuffix(LEFT).removesuffix(RIGHT) for name in names}


@pytest.mark.parametrize("mode", ["back", "end-to-end", "back-adapters", "end-to-end-adapters"])
def test_just_what_the_mode_says_learns(world, material, tmp_path, mode):
    before = {name: p.clone() for name, p in world.model.model.named_parameters()}
    folder = fit(world, material, tmp_path / "codec", mode)
    for name, parameter in world.model.model.named_parameters():
        assert torch.equal(parameter, before[name]), "the original model changed"
    back = {n for n in before if n.startswith(("model.layers.2.", "model.norm.", "lm_head."))}
    linear = {n for n in before if "proj" in n}
    changed = changed_names(folder)
    expected = back if mode.startswith("back") else set(before)
    assert changed == (expected & linear if mode.endswith("adapters") else expected)


@pytest.mark.parametrize(
    "mode, codec, loss",
    [
        ("back", "hyperprior", "cross-entropy"),
        ("back", "klt", "kl"),
        ("back", "trellis", "kl"),
        ("back-adapters", "hyperprior", "kl"),
        ("end-to-end", "hyperprior", "cross-entropy"),
        ("end-to-end", "factorised", "cross-entropy"),
        ("end-to-end", "direct-access", "cross-entropy"),
        ("end-to-end", "int4", "cross-entropy"),
        ("end-to-end", "fp16", "cross-entropy"),
        ("end-to-end-adapters", "hyperprior", "kl"),
    ],
)
def test_the_objective_falls_and_files_say_what_was_validated(
    world, material, tmp_path, mode, codec, loss
):
    folder = fit(world, material, tmp_path / "codec", mode, codec, loss=loss, learning_rate=3e-3)
    lines = (folder / "training.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    first, last = (e for e in entries if e["phase"] == "tuning_validation")
    assert last["loss"] < first["loss"]
    stores = {"validation": world.activations(SPLIT, "validation")}
    reference = world.activations(3, "validation")
    encode(stores["validation"], folder, None, folder / "stream", world.model)
    arguments = (stores["validation"], reference, [folder], [folder / "stream"], 2, 20)
    (row,) = evaluate(world.model, *arguments)
    quality = "kl" if loss == "kl" else "cross_entropy"
    # Mean over all tokens there, over predicted ones here; over batches of uneven sequences there.
    assert row[quality] == pytest.approx(last[quality], rel=0.1)
    if codec not in ("fp16", "int4"):
        assert row["bits_per_token_estimated"] == pytest.approx(last["bits_per_token"], rel=1e-3)
    assert (row["mode"], row["codec"]) == (mode, "named")


def test_end_to_end_sends_what_the_changed_front_makes(world, material, tmp_path):
    folder = fit(world, material, tmp_path / "codec", "end-to-end", "fp16")
    codec, meaning = load_codec(folder)
    row = evaluated(world, folder, "raw")
    batch = world.activations(SPLIT, "evaluation").read([0])
    changed = model_of_codec(world.model, folder, meaning)
    with torch.no_grad():
        sent = changed.front(batch.tokens, SPLIT)
        (stream,) = codec.compress(sent, batch.lengths)
    assert Container.open(folder / "stream").read(0) == stream
    assert row["kl"] > 0


def test_adapters_are_small(world, material, tmp_path):
    whole = fit(world, material, tmp_path / "whole", "back")
    low_rank = fit(world, material, tmp_path / "low-rank", "back-adapters")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, low_rank)]
    assert sizes[1] < 0.2 * sizes[0]


@pytest.mark.parametrize("mode", ["back", "end-to-end", "end-to-end-adapters"])
def test_a_killed_run_goes_on_to_the_same_bits(world, material, tmp_path, monkeypatch, mode):
    expected = fit(world, material, tmp_path / "a", mode)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SHARE", float("inf"))
    save = loop.Loop._save

    def save_and_die(self, number, optimiser, state):
        save(self, number, optimiser, state)
        if self.phases[0].name == "tuning" and state.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Loop, "_save", save_and_die)
        fit(world, material, tmp_path / "b", mode)
    torch.manual_seed(99)
    resumed = fit(world, material, tmp_path / "b", mode)
    for name in ("codec.safetensors", "model.safetensors"):
        assert (resumed / name).read_bytes() == (expected / name).read_bytes()
    assert load_codec(resumed)[1]["hash"] == load_codec(expected)[1]["hash"]
    assert not [path for path in tmp_path.rglob("*") if "checkpoint" in path.name]


def test_files_that_do_not_fit_together_are_refused(world, material, tmp_path):
    folder = fit(world, material, tmp_path / "a", "end-to-end")
    other = fit(world, material, tmp_path / "b", "end-to-end", seed=1)
    evaluated(world, folder)
    with pytest.raises(InputError, match="give --model"):
        encode(world.activations(SPLIT, "evaluation"), folder, None, tmp_path / "stream")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="another codec's; train it again") as caught:
        evaluated(world, folder)
    assert one_line(caught.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors.*train it again"):
        evaluated(world, folder)


def test_the_hash_covers_what_changed_in_the_model(world, material, tmp_path):
    # fp16 has no weights of its own: its files differ in the model's alone.
    folders = [fit(world, material, tmp_path / str(s), "back", "fp16", seed=s) for s in (0, 1)]
    weights = {(folder / "codec.safetensors").read_bytes() for folder in folders}
    changes = {json.loads((f / "codec.json").read_text())["model_changes_sha256"] for f in folders}
    assert (len(weights), len(changes)) == (1, 2)


@pytest.mark.parametrize("mode", ["frozen", "back"])
def test_a_checkpoint_of_other_material_is_not_used(world, material, tmp_path, mode):
    """What a fit begins from is in its checkpoint: another sensitivity must not be lost."""
    other = tmp_path / "other.safetensors"
    train_store = world.activations(SPLIT, "train")
    found = measure_sensitivity(world.model, {SPLIT: train_store}, 3, 1, 7)[SPLIT]
    meaning = {key: train_store.metadata[key] for key in ("split", "model_hash")}
    save_sensitivity(other, found, meaning)

    def fitted(sensitivity, name, checkpoint):
        tuning = {} if mode == "frozen" else TUNING
        wanted = recipe("hyperprior", [0.01], 0, SMALL, "named", mode, tuning)
        made = material | {"sensitivity": sensitivity}
        made = Material(checkpoint=tmp_path / checkpoint, **made)
        train(wanted, world.store(SPLIT, "train"), tmp_path / name, made)
        return (tmp_path / name / "codec.safetensors").read_bytes()

    fresh = fitted(other, "fresh", "a")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "splitcodec.training.run.save_codec", MagicMock(side_effect=KeyboardInterrupt)
        )
        fitted(material["sensitivity"], "first", "b")
    assert list(tmp_path.glob("b*")), "it was killed when all but the result was there"
    assert fitted(other, "second", "b") == fresh


@pytest.mark.parametrize(
    "mode, missing",
    [("end-to-end", "tokens"), ("end-to-end", "model"), ("back", "sensitivity")],
)
def test_what_is_missing_is_named(world, material, tmp_path, mode, missing):
    with pytest.raises(InputError, match=rf"needs .*--{missing}") as caught:
        fit(world, material | {missing: None}, tmp_path / "codec", mode)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    "codec, mode, tuning, said",
    [
        ("klt", "end-to-end", {}, "no gradient"),
        ("trellis", "end-to-end-adapters", {}, "no gradient"),
        ("hyperprior", "sideways", {}, "mode sideways"),
        ("hyperprior", "frozen", {"steps": 1}, "frozen takes no --tune"),
        ("hyperprior", "back", {"stepps": 1}, "stepps"),
        ("hyperprior", "back", {"sequences": 3, "batch_sequences": 2}, "no multiple"),
        ("hyperprior", "back", {"steps": 5, "warm_up_steps": 6}, "warm_up_steps 6 exceed steps 5"),
        ("hyperprior", "back", {"steps": 200, "rate_warm_up_steps": 200}, "λ never reaches"),
        ("hyperprior", "back", {"patience": 3}, "set validate_every too"),
    ],
)
def test_bad_modes_say_why(codec, mode, tuning, said):
    with pytest.raises(SettingsError, match=said) as caught:
        recipe(codec, [0.1], 0, {}, None, mode, tuning)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    "codec, changes",
    [
        ("klt", {"tokens": True}),
        ("hyperprior", {"tokens": True}),
        ("direct-access", {"levels": 2}),
        ("direct-access", {"history": True, "side_channels": 0}),
        ("direct-access", {"trellis": True}),
    ],
)
@pytest.mark.parametrize("mode", ["end-to-end", "end-to-end-adapters"])
def test_what_rests_on_a_fixed_front_is_refused_end_to_end(codec, changes, mode):
    with pytest.raises(SettingsError, match=r"no gradient|end to end has none") as caught:
        recipe(codec, [0.1], 0, changes, None, mode)
    assert one_line(caught.value)


def test_the_rate_weighs_less_while_it_warms_up(world, material, tmp_path):
    rates = []
    for steps in (0, 29):
        tuning = dict(rate_warm_up_steps=steps, learning_rate=3e-3, steps=30)
        changes = SMALL | {"learning_rate": 2e-2}
        wanted = recipe("hyperprior", [0.1], 0, changes, None, "end-to-end", TUNING | tuning)
        made = Material(checkpoint=tmp_path / f"{steps}.checkpoint", **material)
        train(wanted, world.store(SPLIT, "train"), tmp_path / str(steps), made)
        lines = (tmp_path / str(steps) / "training.jsonl").read_text().splitlines()
        rates.append(json.loads(lines[-1])["bits_per_token"])
    assert rates[0] < rates[1]


def by_two_processes(world, folder, codec, mode):
    """The folder of a codec that two processes trained."""
    rate_weight, changes = CODECS[codec]
    command = ["train", "--codec", codec, "--mode", mode, "--model", world.model_directory]
    command += ["--activations", world.store(SPLIT, "train"), "--tokens", world.tokens("train")]
    command += ["--validation", world.store(SPLIT, "validation"), "--out", folder]
    command += [f"--tune={key}={value}" for key, value in TUNING.items()]
    command += [f"--set={key}={value}" for key, value in changes.items()]
    command += [] if rate_weight is None else [f"--lambda={rate_weight}"]
    script = folder.with_suffix(".py")
    script.write_text("from splitcodec.cli import main\n\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", 2, script, *command]
    done = subprocess.run(list(map(str, launcher)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize(
    "mode, codec", [("back", "fp16"), ("end-to-end", "fp16"), ("end-to-end-adapters", "int4")]
)
def test_two_processes_share_a_step(world, material, tmp_path, mode, codec):
    alone = fit(world, material, tmp_path / "alone", mode, codec)
    shared = by_two_processes(world, tmp_path / "shared", codec, mode)
    expected, found = (load_changes(folder, load_codec(folder)[1]) for folder in (alone, shared))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_codec_learns_with_two_processes(world, material, tmp_path):
    """As with one, but for the noise, which is each process's own."""
    alone = fit(world, material, tmp_path / "alone", "end-to-end")
    shared = by_two_processes(world, tmp_path / "shared", "hyperprior", "end-to-end")
    losses = []
    for folder in (alone, shared):
        lines = (folder / "training.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        losses.append([e["loss"] for e in entries if e["phase"] == "tuning_validation"])
    assert losses[1][-1] < losses[1][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@torch.no_grad()
def test_what_is_validated_is_what_is_saved(world):
    """Of a model in bfloat16: its weights learn in float32, and are saved as it has them."""
    model = SplitModel.load(world.model_directory, "bfloat16")
    learning = Learning(model, SPLIT, "back", Tuning(), 0.0, 0)
    draw = from_stores(world.activations(SPLIT, "train"), None, model.device)
    codec, held_out = build_codec("fp16", 32, {}), in_batches(draw, 4)
    training = JointTraining(learning, codec, draw, 480, held_out)
    learned = [p for p in training.pair.model.parameters() if p.requires_grad]
    for parameter in learned:
        parameter *= 1 + 0.1 * torch.rand_like(parameter)
    before = [parameter.clone() for parameter in learned]
    validated = training._validate()
    assert all(map(torch.equal, before, learned)), "learning goes on from the exact weights"
    for parameter in learned:
        parameter.copy_(parameter.bfloat16())
    assert not all(map(torch.equal, before, learned))
    assert training._validate() == validated


@pytest.mark.parametrize("mode", ["end-to-end", "back"])
def test_a_checkpoint_of_another_dtype_is_another_run_s(
    world, material, tmp_path, monkeypatch, mode
):
    recipes = []

    def stop(self, recipe, *_):
        recipes.append(json.loads(recipe))
        raise KeyboardInterrupt

    monkeypatch.setattr(JointTraining, "run", stop)
    for dtype in ("float32", "bfloat16"):
        model = SplitModel.load(world.model_directory, dtype)
        with pytest.raises(KeyboardInterrupt):
            fit(world, material | {"model": model}, tmp_path / dtype, mode, "fp16")
    assert recipes[0] != recipes[1]
    assert recipes[0] | {"dtypes": 0} == recipes[1] | {"dtypes": 0}
