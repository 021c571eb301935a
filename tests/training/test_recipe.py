"""The published recipe: AdamW, decay of matrices, warm-up and cosine, clipped gradients, bf16."""

import pytest
import torch
from torch import nn

from splitcodec.settings import Optimisation, Tuning
from splitcodec.training.log import Log
from splitcodec.training.loop import Loop, Phase
from splitcodec.training.weights import autocast, weight_groups


class Model(nn.Module):
    """A matrix, a vector, and a matrix that does not learn."""

    def __init__(self):
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
        self.fixed = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def optimised(monkeypatch, tmp_path, steps, warm_up, gradient, clip=1.0):
    """What the optimiser was given, and rate and gradients of the parameter at every step."""
    model, given, seen = Model(), {}, []
    step = torch.optim.AdamW.step

    def recorded(self, *arguments):
        given.update(self.defaults)
        seen.append((self.param_groups[0]["lr"], model.matrix.grad.norm().item()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    groups = [{"params": [model.matrix], "lr": 2.0}]
    phase = Phase(
        "learn", steps, warm_up, lambda: groups, lambda *_: (gradient * model.matrix.sum(), {}),
        tokens=1, gradient_clip=clip,
    )  # fmt: skip
    Loop(model, [phase], 0, "{}", tmp_path / "checkpoint", Log()).run()
    return given, seen


def test_rates_and_decay_are_the_papers():
    assert (Optimisation().learning_rate, Tuning().learning_rate) == (6e-4, 6e-5)
    assert (Optimisation().weight_decay, Optimisation().gradient_clip) == (0.1, 1.0)
    assert Optimisation().sequences == Tuning().sequences == 480


def test_only_matrices_decay_and_what_is_fixed_is_left_out():
    model = Model()
    decayed, others = weight_groups(model.parameters(), Tuning())
    assert decayed["params"] == [model.matrix]
    assert decayed["weight_decay"] == 0.1
    assert others["params"] == [model.vector]
    assert others.get("weight_decay", 0.0) == 0.0
    assert decayed["lr"] == others["lr"] == 6e-5


def test_the_rate_warms_up_and_falls_as_a_cosine_to_a_tenth(monkeypatch, tmp_path):
    given, seen = optimised(monkeypatch, tmp_path, steps=24, warm_up=4, gradient=0.01)
    rates = [rate for rate, _ in seen]
    assert given["betas"] == (0.9, 0.95)
    assert given["weight_decay"] == 0.0, "groups say which decay"
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[14] == pytest.approx(1.1), "half way down, between the peak and its tenth"
    assert 0.2 < rates[-1] < 0.22
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize(
    "gradient, clip, norm", [(100.0, 1.0, 1.0), (100.0, 3.0, 3.0), (0.1, 1.0, 0.245)]
)
def test_gradients_are_clipped_to_their_norm(monkeypatch, tmp_path, gradient, clip, norm):
    _, seen = optimised(monkeypatch, tmp_path, 2, 1, gradient, clip)
    assert [size for _, size in seen] == pytest.approx([norm] * 2, rel=1e-2)


@pytest.mark.parametrize(
    "precision, dtype", [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_the_model_computes_in_the_precision_that_is_set(precision, dtype):
    layer = nn.Linear(4, 4)
    with autocast(Tuning(precision=precision), torch.device("cpu")):
        assert layer(torch.ones(2, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32
