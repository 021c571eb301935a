import contextlib
import json
import math
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from small_world import one_line
from splitcodec.errors import TrainingError
from splitcodec.training import loop
from splitcodec.training.checkpoint import load_checkpoint, save_checkpoint
from splitcodec.training.log import Log
from splitcodec.training.loop import BatchLoss, Loop, Phase, recipe_of, sequences_of_step

TARGET = torch.linspace(-1, 1, 6)


class Killed(BaseException):
    """What a killed process would do: nothing below may catch it."""


class Line(nn.Module):
    """Learns a vector from noisy samples of it; `fixed` never learns."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))
        self.fixed = nn.Parameter(torch.ones(6), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, step, batch):
        self.seen += 1
        noise = 0.1 * torch.randn(6)
        value = (self.weight - TARGET + noise).square().mean()
        return value, {"batch": float(batch)}

    def validate(self):
        return {"loss": (self.weight - TARGET).square().mean().item()}


def phase(line, name="learn", steps=40, **changes):
    known = dict(warm_up=4, tokens=10, batches=2, validate=line.validate, validate_every=10)

    def groups():
        return [{"params": [line.weight], "lr": 0.1, "weight_decay": 0.01}]

    return Phase(name, steps, groups=groups, **known | {"loss": line.loss} | changes)


def run(folder, line=None, phases=None, seed=0, **changes):
    """The trained module, and its log as entries without speed."""
    line = line or Line()
    log = Log(folder / "training.jsonl")
    phases = phases or [phase(line, **changes), phase(line, "again", steps=10, **changes)]
    Loop(line, phases, seed, recipe_of(λ=0.5, seed=seed), folder / "checkpoint", log).run()
    return line, timeless(log.entries)


def timeless(entries):
    return [{k: v for k, v in entry.items() if k != "tokens_per_second"} for entry in entries]


def test_processes_that_share_no_loss_learn_the_same(tmp_path, monkeypatch):
    """A loop that was given no accelerator is run whole by each of several processes."""
    alone, _ = run(tmp_path / "alone")
    accelerator = loop.accelerator_for(torch.device("cpu"))
    second = MagicMock(wraps=accelerator, process_index=1, num_processes=2, is_main_process=True)
    second.device = accelerator.device
    monkeypatch.setattr(loop, "accelerator_for", lambda device: second)
    other, _ = run(tmp_path / "second")
    assert torch.equal(other.weight, alone.weight)


def test_processes_exchange_gradients_once_a_step(tmp_path):
    line, waited = Line(), []
    accelerator = loop.accelerator_for(torch.device("cpu"))
    shared = MagicMock(wraps=accelerator, process_index=0, num_processes=2, is_main_process=True)
    shared.device = accelerator.device
    shared.reduce = lambda values, how: values
    shared.no_sync = lambda module: waited.append(module) or contextlib.nullcontext()
    own = phase(line, steps=5, batches=3, parallel=line, validate=None)
    Loop(line, [own], 0, "{}", tmp_path / "checkpoint", Log(), shared).run()
    assert waited == [line] * 10, "all but the last batch of each step"


def on_disk(folder):
    lines = (folder / "training.jsonl").read_text().splitlines()
    return timeless([json.loads(line) for line in lines])


def test_it_learns_and_keeps_the_best_validated_state(tmp_path):
    line, entries = run(tmp_path, seed=1)
    validated = [e["loss"] for e in entries if e["phase"] == "again_validation"]
    assert line.validate()["loss"] == min(validated) < 0.01
    assert torch.equal(line.fixed, torch.ones(6))


def test_the_log_grows_as_it_goes_and_is_watched(tmp_path):
    watched = []
    log = Log(tmp_path / "training.jsonl", watched.append)
    line = Line()
    Loop(line, [phase(line)], 0, recipe_of(), tmp_path / "checkpoint", log).run()
    assert watched == log.entries
    assert log.text() == (tmp_path / "training.jsonl").read_text()
    assert {"loss", "batch", "tokens_per_second"} <= log.entries[1].keys()
    assert log.entries[1]["batch"] == 0.5, "a figure is the mean over a step's batches"


@pytest.mark.parametrize("at", [("learn", 7), ("learn", 30), ("again", 3)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, at):
    (tmp_path / "a").mkdir()
    expected, entries = run(tmp_path / "a")
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SHARE", math.inf)
    line = Line()

    def until(name):
        def loss(step, batch):
            if (name, step) == at:
                raise Killed
            return line.loss(step, batch)

        return loss

    phases = [phase(line, loss=until("learn"))]
    phases.append(phase(line, "again", steps=10, loss=until("again")))
    with pytest.raises(Killed):
        run(tmp_path, line, phases)
    with (tmp_path / "training.jsonl").open("a") as file:
        file.write('{"phase": "learn", "step": 999}\n')
    torch.manual_seed(99)
    resumed, again = run(tmp_path)
    assert resumed.seen == expected.seen, "it began again"
    assert torch.equal(resumed.weight, expected.weight)
    assert again == entries == on_disk(tmp_path)


def test_batches_weigh_by_their_tokens(tmp_path):
    line, places, weights = Line(), (torch.zeros(6), TARGET), (30.0, 10.0)

    def loss(step, batch):
        value = (line.weight - 1 - places[batch]).square().sum()
        return BatchLoss(value, {"place": float(batch)}, weights[batch])

    log = Log()
    own = phase(line, steps=1, loss=loss, validate=None, gradient_clip=1e9)
    Loop(line, [own], 0, "{}", tmp_path / "checkpoint", log).run()
    torch.testing.assert_close(line.weight.grad, -2 * (1 + TARGET / 4))
    assert log.entries[0]["place"] == 0.25
    values = [(1 + place).square().sum().item() for place in places]
    assert log.entries[0]["loss"] == pytest.approx((3 * values[0] + values[1]) / 4)


def test_perplexity_is_that_of_the_mean_cross_entropy(tmp_path):
    line, log = Line(), Log()

    def loss(step, batch):
        return line.loss(step, batch)[0], {"cross_entropy": (1.0, 4.0)[batch]}

    own = phase(line, steps=1, loss=loss, validate=None)
    Loop(line, [own], 0, "{}", tmp_path / "checkpoint", log).run()
    assert log.entries[0]["perplexity"] == pytest.approx(math.exp(2.5))
    log.note("late", 1, cross_entropy=1e6)
    assert "perplexity" in log.entries[-1]


def test_the_time_of_a_killed_run_counts(tmp_path):
    run(tmp_path)
    state = load_checkpoint(tmp_path / "checkpoint", torch.device("cpu"))
    assert 0 < state["seconds"] < 100
    save_checkpoint(tmp_path / "checkpoint", state | {"seconds": 5000.0})
    log, line = Log(), Line()
    Loop(line, [phase(line)], 0, recipe_of(λ=0.5, seed=0), tmp_path / "checkpoint", log).run()
    assert 5000 < log.seconds < 5100


def test_a_finished_run_is_not_done_again(tmp_path):
    first, entries = run(tmp_path)
    again, same = run(tmp_path)
    assert again.seen == first.seen, "it began again"
    assert torch.equal(again.weight, first.weight)
    assert same == entries


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path):
    (tmp_path / "a").mkdir()
    expected, _ = run(tmp_path / "a", seed=3)
    run(tmp_path, seed=0)
    assert torch.equal(run(tmp_path, seed=3)[0].weight, expected.weight)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    for damage in (b"", b"garbage" * 50, b"PK\x03\x04" + b"\x00" * 100):
        checkpoint.write_bytes(damage)
        with pytest.raises(TrainingError, match=r"checkpoint.*cannot be read.*delete it") as caught:
            run(tmp_path)
        assert one_line(caught.value)


def test_it_ends_when_validation_no_longer_gains(tmp_path):
    line = Line()
    objectives = iter([5.0, 4.0, 3.0, 3.5, 3.1, 2.0])
    found = {}

    def validate():
        value = next(objectives)
        found[value] = line.weight.detach().clone()
        return {"loss": value}

    stopped = phase(line, steps=100, validate=validate, validate_every=5, patience=2)
    _, entries = run(tmp_path, line, [stopped])
    assert [e["step"] for e in entries if e["phase"] == "learn_validation"] == [0, 5, 10, 15, 20]
    assert torch.equal(line.weight, found[3.0])


@pytest.mark.parametrize("late, said", [(math.nan, "not finite"), (50.0, "has grown to 50")])
def test_divergence_is_an_error(tmp_path, late, said):
    line = Line()

    def loss(step, batch):
        value, figures = line.loss(step, batch)
        return value * 0 + (1.0 if step < 60 else late), figures

    with pytest.raises(TrainingError, match=rf"learn diverged at step 6\d .*{said}") as caught:
        run(tmp_path, line, [phase(line, steps=200, loss=loss)])
    assert one_line(caught.value)
    assert "λ 0.5, seed 0" in str(caught.value)


def test_a_loss_far_above_where_it_began_is_divergence_though_it_does_not_triple(tmp_path):
    """A language model that says all tokens alike has a bounded loss."""
    line = Line()

    def loss(step, batch):
        value, figures = line.loss(step, batch)
        return value * 0 + (4.6 if step < 60 else 7.6), figures

    diverging = phase(line, steps=200, loss=loss, validate=lambda: {"loss": 4.7}, validate_every=0)
    with pytest.raises(TrainingError, match=r"at step 6\d \(.*grown from 4\.7 to 7\.6"):
        run(tmp_path, line, [diverging])


def test_the_terminal_shows_the_last_figures(tmp_path, capsys):
    line = Line()

    def loss(step, batch):
        return line.loss(step, batch)[0] * 0 + 2.5, {"bits_per_token": 345.6, "perplexity": 12.34}

    run(tmp_path, line, [phase(line, steps=3, loss=loss, validate=None)])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("learn: 3/3, ")
    assert "loss 2.5, bits a token 345.6, perplexity 12.34, tokens a second " in last


@pytest.mark.parametrize("objectives, said", [([1.0, 1.2], True), ([1.0, 0.9], False)])
def test_it_is_said_when_all_stays_as_it_was(tmp_path, capsys, objectives, said):
    line, values = Line(), iter(objectives)
    run(tmp_path, line, [phase(line, validate=lambda: {"loss": next(values)}, validate_every=0)])
    assert ("no step was a gain" in capsys.readouterr().err) == said
    assert bool(line.weight.any()) != said


def test_a_step_takes_each_sequence_once_an_epoch():
    steps = [sequences_of_step(12, 4, seed=1, step=step) for step in range(6)]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(12))
    assert steps[:3] != steps[3:]
    assert steps[0] != sequences_of_step(12, 4, seed=2, step=0)
    uneven = [row for step in range(5) for row in sequences_of_step(10, 4, seed=1, step=step)]
    assert sorted(uneven[:10]) == sorted(uneven[10:]) == list(range(10))


_DISAGREEING = """
import sys
from pathlib import Path
import torch
from torch import nn
from splitcodec.training.log import Log
from splitcodec.training.loop import Loop, Phase, accelerator_for

accelerator = accelerator_for(torch.device("cpu"))
module, rank, measured = nn.Linear(1, 1), accelerator.process_index, []

def validate():  # better each time for the first process, worse for the other
    measured.append(len(measured) * (1 if rank else -1))
    return {"loss": float(measured[-1])}

def loss(step, batch):
    return module(torch.ones(1)).square().mean(), {}

phase = Phase(
    "learn", 6, 1, lambda: [{"params": list(module.parameters()), "lr": 0.1}], loss,
    tokens=1, validate=validate, validate_every=1, patience=2,
)
folder = Path(sys.argv[1])
Loop(module, [phase], 0, "{}", folder / "checkpoint", Log(), accelerator).run()
(folder / f"{rank}.txt").write_text(str(len(measured)))
"""


def test_processes_that_measure_differently_stop_together(tmp_path):
    (tmp_path / "main.py").write_text(_DISAGREEING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node=2", tmp_path / "main.py", tmp_path]
    done = subprocess.run(list(map(str, launcher)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["7", "7"]
