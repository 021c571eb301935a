import copy

import pytest
import torch

from small_world import one_line
from splitcodec.errors import InputError
from splitcodec.splitting.changes import (
    LEFT,
    RIGHT,
    back_modules,
    changed_model,
    changes_between,
    untie_head,
)

SPLIT = 2
TOKENS = torch.arange(24).view(2, 12)


@pytest.fixture(params=["llama", "gpt2", "gpt_neox"])
def model(request, tmp_path):
    from splitcodec.inputs.random_model import build_random_model
    from splitcodec.settings import RandomSource
    from splitcodec.splitting.model import SplitModel

    build_random_model(RandomSource(kind="random", architecture=request.param, blocks=3), tmp_path)
    return SplitModel.load(tmp_path)


def disturbed(model, modules):
    """A copy with noise on the parameters that `modules` gives of it."""
    changed = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for module in modules(changed):
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return changed


def logits(model):
    with torch.no_grad():
        return model.back(model.front(TOKENS, SPLIT), SPLIT)


def untied(model):
    untie_head(model)
    return back_modules(model, SPLIT)


@pytest.mark.parametrize("modules", [untied, lambda model: [model.model]], ids=["back", "all"])
def test_changes_make_the_trained_model_again(model, modules):
    trained = disturbed(model, modules)
    changes = changes_between(model, trained)
    again = changed_model(model, changes)
    assert torch.equal(logits(again), logits(trained))
    assert not torch.equal(logits(again), logits(model))


def test_the_back_leaves_the_front_alone(model):
    again = changed_model(model, changes_between(model, disturbed(model, untied)))
    assert torch.equal(again.front(TOKENS, SPLIT), model.front(TOKENS, SPLIT))


def test_only_what_differs_is_kept(model):
    assert changes_between(model, copy.deepcopy(model)) == {}
    trained = disturbed(model, lambda m: [m.norm])
    names = {id(p): name for name, p in trained.model.named_parameters()}
    assert set(changes_between(model, trained)) == {names[id(p)] for p in trained.norm.parameters()}


def test_no_changes_are_the_model_itself(model):
    assert changed_model(model, {}) is model


def test_low_rank_changes_add_their_product(model):
    name, weight = next((n, p) for n, p in model.model.named_parameters() if p.ndim == 2)
    left, right = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
    again = changed_model(model, {name + LEFT: left, name + RIGHT: right})
    found = dict(again.model.named_parameters())[name]
    torch.testing.assert_close(found, weight + left @ right)


def test_changes_are_kept_in_the_precision_of_the_model(model):
    half = copy.deepcopy(model).bfloat16()
    trained = disturbed(copy.deepcopy(half).float(), lambda m: [m.norm])
    assert {v.dtype for v in changes_between(half, trained).values()} == {torch.bfloat16}


@pytest.mark.parametrize("changes", [{"no.such": torch.ones(2)}, {"shape": torch.ones(3)}])
def test_changes_of_another_model_are_refused(model, changes):
    name = next(n for n, p in model.model.named_parameters() if p.ndim == 2)
    changes = {name if key == "shape" else key: value for key, value in changes.items()}
    with pytest.raises(InputError, match="trained with another model") as caught:
        changed_model(model, changes)
    assert one_line(caught.value)
