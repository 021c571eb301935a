import dataclasses
import math

import pytest
import torch

from small_world import one_line, write_store
from splitcodec.codecs.hyperparameters import HyperpriorHyperparameters, KltHyperparameters
from splitcodec.errors import TrainingError
from splitcodec.training.fitting import Fitting, TrainingData, fit_closed_form, fit_from_klt
from splitcodec.training.log import Log
from splitcodec.training.sensitivity import measure_sensitivity

SPLIT = 2
RATE_WEIGHT = 0.01
SMALL = {
    "side_channels": 4,
    "width": 16,
    "heads": 2,
    "steps": 12,
    "polish_steps": 6,
    "batch_tokens": 256,
    "polish_batch_tokens": 128,
}


@pytest.fixture(scope="module")
def data(world):
    train = world.activations(SPLIT, "train")
    sensitivity = measure_sensitivity(world.model, {SPLIT: train}, 16, 4, 0)[SPLIT]
    return TrainingData(
        train,
        sensitivity,
        SPLIT,
        references=world.activations(3, "train"),
        validation=(world.activations(SPLIT, "validation"), world.activations(3, "validation")),
        model=world.model,
    )


def fit(data, checkpoint, seed=0, rate_weight=RATE_WEIGHT, **changes):
    settings = HyperpriorHyperparameters(**SMALL | changes)
    log = Log()
    return fit_from_klt("hyperprior", settings, data, [rate_weight], seed, checkpoint, log), log


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return fit(data, tmp_path_factory.mktemp("fit") / "checkpoint")


def assert_same(first, second):
    for name, value in first[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name
    assert timeless(first[1]) == timeless(second[1])


def timeless(log):
    return [{k: v for k, v in e.items() if k != "tokens_per_second"} for e in log.entries]


def rates(log, phase):
    return [entry["bits_per_token"] for entry in log.entries if entry["phase"] == phase]


def test_the_rate_falls_and_the_reconstruction_stays(data, tmp_path):
    codec, log = fit(data, tmp_path / "checkpoint", steps=120, polish_steps=0, learning_rate=1e-2)
    fitted = rates(log, "fit")
    assert min(fitted[-3:]) < 0.97 * fitted[0]
    klt = fit_closed_form(KltHyperparameters(), data, [RATE_WEIGHT], 0)
    assert torch.equal(codec.analysis, klt.analysis)
    assert torch.equal(codec.synthesis, klt.synthesis)
    batch = data.validation[0].read(range(4))
    streams = codec.compress(batch.representation, batch.lengths)
    decoded = codec.decompress(streams, batch.lengths)
    klt_decoded = klt(batch.representation, batch.lengths).reconstruction
    assert decoded.shape == klt_decoded.shape


def test_many_sinks_are_warned_of(data, tmp_path, capsys):
    every = data.activations.read(range(len(data.activations)))
    rows = [row[:n].clone() for row, n in zip(every.representation, every.lengths, strict=True)]
    for name, sinks in ("few", slice(3, 4)), ("many", slice(4, 10)):
        rows[0][sinks] *= 1000
        changed = dataclasses.replace(data, activations=write_store(tmp_path / name, rows))
        fit_closed_form(KltHyperparameters(), changed, [RATE_WEIGHT], 0)
        warned = "warning: sinks (massive" in capsys.readouterr().err
        assert warned == (name == "many")


def test_polishing_lowers_the_objective_on_what_it_learns_from(data, tmp_path):
    _, log = fit(data, tmp_path / "c", steps=30, polish_steps=60, polish_batch_tokens=1024)
    losses = [entry["loss"] for entry in log.entries if entry["phase"] == "polish"]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_log_holds_every_phase(undisturbed):
    entries = undisturbed[1].entries
    phases = [entry["phase"] for entry in entries]
    assert phases == [*["fit"] * 4, "polish_validation", *["polish"] * 2, "polish_validation"]
    assert [entry["step"] for entry in entries if entry["phase"] == "fit"] == [0, 5, 10, 11]
    for entry in entries:
        assert math.isfinite(entry["loss"])
        if entry["phase"] != "fit":
            expected = entry["distortion"] + RATE_WEIGHT * entry["bits_per_token"]
            assert entry["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_gives_the_same_codec_and_another_another(data, undisturbed, tmp_path):
    torch.manual_seed(1234)
    assert_same(fit(data, tmp_path / "checkpoint"), undisturbed)
    other, _ = fit(data, tmp_path / "checkpoint", seed=1)
    assert not torch.equal(other.log_scale, undisturbed[0].log_scale)


def test_a_finished_fit_is_not_done_again(data, undisturbed, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint"
    fit(data, checkpoint)
    monkeypatch.setattr(Fitting, "_rate_loss", None)
    assert_same(fit(data, checkpoint), undisturbed)


def test_a_loss_that_is_not_finite_is_an_error(data, tmp_path):
    with pytest.raises(TrainingError, match=r"diverged at step \d+ .*learning_rate") as caught:
        fit(data, tmp_path / "checkpoint", learning_rate=1e30, steps=40)
    assert one_line(caught.value)
    assert f"λ {RATE_WEIGHT}" in str(caught.value)


def test_polishing_that_hurts_is_undone(data, tmp_path, monkeypatch):
    monkeypatch.setattr("splitcodec.training.fitting._LARGEST_CHANGE", 10.0)
    codec, log = fit(data, tmp_path / "a", polish_steps=6, transform_learning_rate=1e6)
    before, after = (e["loss"] for e in log.entries if e["phase"] == "polish_validation")
    assert after > before
    unpolished, _ = fit(data, tmp_path / "b", polish_steps=0)
    for name, value in unpolished.state_dict().items():
        assert torch.equal(codec.state_dict()[name], value), name


def test_polishing_that_ends_in_no_number_is_undone(data, tmp_path, monkeypatch):
    validate, calls = Fitting._validate, []

    def spoilt(self):
        calls.append(self)
        return validate(self) | ({"loss": math.nan} if len(calls) > 1 else {})

    monkeypatch.setattr(Fitting, "_validate", spoilt)
    codec, _ = fit(data, tmp_path / "a")
    unpolished, _ = fit(data, tmp_path / "b", polish_steps=0)
    assert torch.equal(codec.analysis, unpolished.analysis)


def test_the_codec_comes_out_ready_to_code(undisturbed, data):
    codec, _ = undisturbed
    assert not codec.training
    tables = codec.side_density.tables()
    assert torch.equal(codec.side_cumulative, tables.cumulative)
    batch = data.validation[0].read(range(4))
    estimate = codec(batch.representation, batch.lengths)
    streams = codec.compress(batch.representation, batch.lengths)
    decoded = codec.decompress(streams, batch.lengths)
    error = (decoded - estimate.reconstruction).norm() / decoded.norm()
    assert error < 1e-4
    bits = 8 * sum(len(stream) - 8 for stream in streams)
    assert bits == pytest.approx(estimate.bits.sum().item(), rel=0.02)


def test_without_a_model_only_the_first_phase_runs(data, tmp_path):
    alone = dataclasses.replace(data, references=None, validation=None, model=None)
    _, log = fit(alone, tmp_path / "checkpoint", polish_steps=0)
    assert {entry["phase"] for entry in log.entries} == {"fit"}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_smaller_lambda_costs_more_bits(data, tmp_path):
    final = [
        rates(fit(data, tmp_path / "c", rate_weight=weight)[1], "polish_validation")[0]
        for weight in (0.001, 0.01, 0.1)
    ]
    assert final[0] > 1.3 * final[1] > 1.7 * final[2]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_lambda_at_which_nothing_is_coded(data, tmp_path):
    codec, _ = fit(data, tmp_path / "c", rate_weight=1e4)
    assert codec.kept == 0
    batch = data.validation[0].read([0])
    decoded = codec.decompress(codec.compress(batch.representation, batch.lengths), batch.lengths)
    assert torch.isfinite(decoded).all()
