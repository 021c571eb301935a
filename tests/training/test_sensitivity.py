import json

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from small_world import one_line, uniform
from splitcodec.activations.moments import ordinary_tokens
from splitcodec.errors import InputError
from splitcodec.training.sensitivity import (
    fit_weights,
    load_sensitivity,
    measure_sensitivity,
    save_sensitivity,
)

CHANNELS = 32


def measure(world, splits, sequences=24, seed=0):
    stores = {split: world.activations(split, "train") for split in splits}
    return measure_sensitivity(world.model, stores, sequences, 4, seed)


def head_alone(world):
    """Σ over labels of p · g gᵀ: the expectation over labels in closed form, at the last block.

    There each token's loss depends on its own representation alone, so that the gradient for a
    label is the Jacobian of norm and head applied to softmax minus label.
    """
    store = world.activations(3, "train")
    total, count = torch.zeros(CHANNELS, CHANNELS).double(), 0
    for batch in store.batches(8):
        ordinary = ordinary_tokens(batch.representation, batch.mask)
        states = batch.representation[ordinary][::5].requires_grad_()
        logits = world.model.back(states[None], 3)[0]
        # A token's logits are of its own state: of all tokens a row of the Jacobian at once.
        rows = [torch.autograd.grad(one.sum(), states, retain_graph=True)[0] for one in logits.T]
        jacobian = torch.stack(rows, 1).double()
        shares = logits.detach().double().softmax(-1)
        fisher = shares.diag_embed() - shares[:, :, None] * shares[:, None]
        total += torch.einsum("tvc,tvw,twd->cd", jacobian, fisher, jacobian)
        count += len(states)
    return total / count


def test_at_the_last_block_it_is_the_fisher_information_in_closed_form(world):
    expected = head_alone(world)
    found = sum(measure(world, [3], seed=seed)[3].matrix for seed in range(12)) / 12
    assert found.dtype == torch.float64
    assert (found - expected).norm() / expected.norm() < 0.12
    assert found.trace().item() == pytest.approx(expected.trace().item(), rel=0.05)


def test_it_predicts_the_divergence_of_a_small_error(world):
    """½ eᵀ G e, with G over all tokens and errors of the size of quantisation."""
    split = 2
    sensitivity = sum(measure(world, [split], seed=seed)[split].matrix for seed in range(8)) / 8
    store = world.activations(split, "train")
    batch = store.read(range(len(store)))
    usable = ordinary_tokens(batch.representation, batch.mask)
    generator = torch.Generator().manual_seed(0)
    error = 0.02 * torch.randn(batch.representation.shape, generator=generator)
    error = error * usable[..., None]
    with torch.no_grad():
        before = world.model.back(batch.representation, split).double().log_softmax(-1)
        after = world.model.back(batch.representation + error, split).double().log_softmax(-1)
    total = (before.exp() * (before - after)).sum(-1)[batch.mask].sum().item()
    errors = error[usable].double()
    predicted = 0.5 * ((errors @ sensitivity) * errors).sum().item()
    assert total == pytest.approx(predicted, rel=0.25)


def test_it_is_the_mean_of_per_token_gradients(world):
    """Against gradients taken one sequence at a time, with labels drawn in the same order."""
    split, seed = 1, 5
    store = world.activations(split, "train")
    count = 4
    chosen = [round(i * (len(store) - 1) / (count - 1)) for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    total, tokens = torch.zeros(CHANNELS, CHANNELS).double(), 0
    for row in chosen:
        batch = store.read([row])
        state = batch.representation.requires_grad_()
        logits = world.model.back(state, split)[0]
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, state)
        kept = gradient[ordinary_tokens(batch.representation, batch.mask)].double()
        total += kept.T @ kept
        tokens += len(kept)
    found = measure_sensitivity(world.model, {split: store}, count, 1, seed)[split].matrix
    torch.testing.assert_close(found, total / tokens, rtol=1e-3, atol=1e-6)


def test_several_splits_in_one_pass_are_alike_to_each_alone(world):
    together = measure(world, [1, 2, 3])
    assert together.keys() == {1, 2, 3}
    # only the first split's own states are those of the store: later ones follow by computing
    for split in (1, 2, 3):
        alone = measure(world, [split])[split].matrix
        torch.testing.assert_close(
            together[split].matrix, alone, rtol=0.02, atol=0.02 * alone.max().item()
        )


def test_it_is_symmetric_positive_and_repeatable(world):
    found = measure(world, [2], sequences=6)[2].matrix
    torch.testing.assert_close(found, found.T)
    assert torch.linalg.eigvalsh(found).min() > -1e-9
    assert torch.equal(found, measure(world, [2], sequences=6)[2].matrix)
    assert not torch.equal(found, measure(world, [2], sequences=6, seed=1)[2].matrix)


def test_weights_find_how_much_tokens_matter():
    """Against the law that the energies were drawn by."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(16, 500, 6, generator=generator, dtype=torch.float64) * 3 + 1
    truth = 0.3 * (values[..., 0] - 1) / 3 - 0.5 * (values[..., 4] - 1) / 3
    noise = torch.distributions.Gamma(2.0, 2.0).sample(truth.shape).double()
    found = fit_weights(list(values), list(7 * truth.exp() * noise))
    predicted = found.log_sensitivity(values)
    assert predicted.exp().mean() == pytest.approx(1, rel=1e-6)
    assert torch.corrcoef(torch.stack([predicted.flatten(), truth.flatten()]))[0, 1] > 0.99
    torch.testing.assert_close(
        found.weight[[0, 4]], torch.tensor([0.3, -0.5]).double(), atol=0.05, rtol=0
    )


def test_weights_of_noise_or_of_few_sequences_say_nothing():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(16, 100, 40, generator=generator, dtype=torch.float64)
    energies = torch.distributions.Gamma(0.5, 0.5).sample((16, 100)).double()
    assert not fit_weights(list(values), list(energies)).weight.any()
    assert not fit_weights(list(values[:2]), list(values[:2, :, 0].exp())).weight.any()


def test_the_model_keeps_no_gradients(world):
    measure(world, [1], sequences=2)
    assert all(parameter.grad is None for parameter in world.model.parameters())


def test_it_comes_back_from_its_file(tmp_path):
    saved = uniform(torch.eye(3, dtype=torch.float64))
    path = tmp_path / "deep" / "split2.safetensors"
    save_sensitivity(path, saved, {"split": 2, "model": "m"})
    found, meaning = load_sensitivity(path)
    assert torch.equal(found.matrix, saved.matrix)
    for name in ("centre", "spread", "weight", "offset"):
        assert torch.equal(getattr(found.weights, name), getattr(saved.weights, name))
    assert meaning == {"kind": "sensitivity", "split": 2, "model": "m"}


def test_missing_damaged_and_foreign_files_give_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_sensitivity(path)
    save_sensitivity(path, uniform(torch.eye(3)), {"split": 2})
    data = path.read_bytes()
    spoilt = [b"", data[:5], data[:-1], b"\xff" * 100]
    spoilt.append(safetensors.torch.save({"a": torch.zeros(1)}))
    meaning = {"splitcodec": json.dumps({"kind": "sensitivity"})}
    spoilt.append(safetensors.torch.save({"other": torch.zeros(1)}, metadata=meaning))
    spoilt.append(safetensors.torch.save({"sensitivity": torch.zeros(1)}, {"splitcodec": "{"}))
    for number, wrong in enumerate(spoilt):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match="no sensitivity file") as caught:
            load_sensitivity(path)
        assert one_line(caught.value), number
