import pytest
import torch

from splitcodec.training import divergence as module
from splitcodec.training.divergence import compare_heads, compare_logits, divergence

SPLIT = 2


@pytest.fixture(scope="module")
def case(world):
    """Representation with an error, reference at the last block, and mask."""
    batch = world.activations(SPLIT, "evaluation").read(range(5))
    reference = world.activations(3, "evaluation").read(range(5))
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(batch.representation.shape, generator=generator)
    return batch.representation + noise, reference.representation, batch.mask


def direct(model, coded, reference, mask):
    estimate = model.back(coded, SPLIT)[mask].log_softmax(-1)
    target = model.back(reference, 3)[mask].log_softmax(-1)
    return (target.exp() * (target - estimate)).sum(-1).mean()


def test_it_is_the_mean_divergence_over_real_tokens(world, case):
    with torch.no_grad():
        found, expected = divergence(world.model, SPLIT, *case), direct(world.model, *case)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found > 0.01


def test_its_gradient_is_that_of_autograd(world, case):
    coded, reference, mask = case
    gradients = []
    for function in (
        lambda *a: divergence(world.model, SPLIT, *a),
        lambda *a: direct(world.model, *a),
    ):
        leaf = coded.clone().requires_grad_()
        (3 * function(leaf, reference, mask)).backward()
        gradients.append(leaf.grad)
    assert gradients[1].abs().max() > 1e-5
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-7)
    assert not gradients[0][~mask].any()


def test_the_size_of_the_chunks_does_not_matter(world, case, monkeypatch):
    with torch.no_grad():
        expected = divergence(world.model, SPLIT, *case)
        for size in (1, 7, 10_000):
            monkeypatch.setattr(module, "_CHUNK", size)
            assert divergence(world.model, SPLIT, *case).item() == pytest.approx(
                expected.item(), rel=1e-5
            )


def test_no_error_costs_nothing(world, case):
    _, reference, mask = case
    found = divergence(world.model, 3, reference, reference, mask)
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_compared_logits_are_those_of_log_softmax():
    generator = torch.Generator().manual_seed(0)
    reference, coded = (20 * torch.randn(2, 50, 300, generator=generator)).unbind()
    coded[:25] = reference[:25] + 0.1 * coded[:25]
    found = compare_logits(reference.clone(), coded.clone())
    target, estimate = (z.double().log_softmax(-1) for z in (reference, coded))
    expected = (target.exp() * (target - estimate)).sum(-1)
    torch.testing.assert_close(found.kl.double(), expected, rtol=1e-4, atol=1e-5)
    agree = (reference.argmax(-1) == coded.argmax(-1)).float()
    assert torch.equal(found.agreement, agree)
    assert 0 < agree.mean() < 1
    torch.testing.assert_close(found.reference_normaliser, reference.logsumexp(-1))
    torch.testing.assert_close(found.coded_normaliser, coded.logsumexp(-1))


def test_extreme_logits_stay_finite():
    reference = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
    found = compare_logits(reference, reference.flip(-1))
    assert torch.isfinite(found.kl).all()
    assert found.kl.tolist() == pytest.approx([2e4, 0], rel=1e-3)


@pytest.mark.parametrize("tokens, vocabulary", [(512, 2048), (64, 100), (7, 1)])
@torch.no_grad()
def test_logits_in_parts_compare_as_whole_ones(world, monkeypatch, tokens, vocabulary):
    monkeypatch.setattr("splitcodec.training.divergence._TOKENS", tokens)
    monkeypatch.setattr("splitcodec.training.divergence._VOCABULARY", vocabulary)
    finals = 9 * torch.randn(3, 150, 32, generator=torch.Generator().manual_seed(0))
    finals[2] = finals[0] + 0.1 * finals[1]
    heads = [(world.model, final) for final in finals]
    whole = [world.model.head(final) for final in finals]
    for number, found in enumerate(compare_heads(heads[0], heads[1:]), 1):
        expected = compare_logits(whole[0], whole[number])
        torch.testing.assert_close(found.kl, expected.kl, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.agreement, expected.agreement)
        torch.testing.assert_close(found.reference_normaliser, expected.reference_normaliser)
        torch.testing.assert_close(found.coded_normaliser, expected.coded_normaliser)
    assert expected.agreement.mean() > 0.5


@torch.no_grad()
def test_parts_of_a_head_are_the_head(world):
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    whole = world.model.head(states)
    parts = list(world.model.head_in_parts(states, 37))
    torch.testing.assert_close(torch.cat(parts, -1), whole)
    ids = torch.tensor([0, 3, 3, 1, 2])
    torch.testing.assert_close(
        world.model.logits_of(states, ids), whole.gather(-1, ids[:, None])[:, 0]
    )
