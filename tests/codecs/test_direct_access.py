import copy

import pytest
import torch
from codec_samples import (
    CHANNELS,
    FIRST_MEAN,
    RATE_WEIGHT,
    TOKEN_WEIGHTS,
    divergence_of,
    fitted_direct_access,
    fitted_klt,
    representations,
)
from pydantic import ValidationError

from splitcodec.codecs.hyperparameters import DirectAccessHyperparameters
from splitcodec.codecs.levels import Known
from splitcodec.errors import BitstreamError

OFFSETS = torch.zeros(40, CHANNELS)


@pytest.fixture(scope="module", params=[(5, False), (0, False), (5, True)])
def codec(request):
    side, history = request.param
    return fitted_direct_access(side_channels=side, history=history)


def persistent(sequences, tokens, seed=0):
    """Representations that change slowly, so that earlier tokens tell much about the next."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(sequences, tokens, CHANNELS, generator=generator)
    values = [torch.zeros(sequences, CHANNELS)]
    for step in steps.unbind(1)[1:]:
        values.append(0.95 * values[-1] + 0.3 * step)
    values = 2 * torch.stack(values, 1)
    values[:, 0] = FIRST_MEAN
    return values


def test_it_starts_with_the_rate_of_the_klt_where_there_are_no_side_values(data):
    codec = fitted_direct_access(side_channels=0)
    with torch.no_grad():
        for parameter in codec.prediction[-1].parameters():
            parameter.zero_()
        expected, found = fitted_klt()(*data), codec(*data)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    torch.testing.assert_close(found.bits, expected.bits, rtol=1e-3, atol=1e-2)
    sizes = [[len(stream) for stream in c.compress(*data)] for c in (codec, fitted_klt())]
    assert sizes[0] == pytest.approx(sizes[1], abs=1)  # one byte says that no table is signalled


def test_without_side_values_nothing_of_them_is_left():
    codec = fitted_direct_access(side_channels=0)
    assert not [name for name in codec.state_dict() if name.startswith("side")]


def test_a_symbol_is_predicted_from_earlier_tokens_only(data):
    codec = fitted_direct_access(side_channels=0)
    latent = codec.latent(data[0]).detach()
    side = latent[..., :0]
    changed = latent.clone()
    changed[:, 20] += 3
    with torch.no_grad():
        before, after = (
            codec.predict(data[0], Known(OFFSETS), values, side)[1] for values in (latent, changed)
        )
    torch.testing.assert_close(before[:, :21], after[:, :21])
    assert not torch.allclose(before[:, 21], after[:, 21])


def test_training_and_coding_see_the_same_where_symbols_need_no_mean(data):
    """The whole-sequence prediction of training is the stepwise one, but for what it rounds."""
    codec = fitted_direct_access(side_channels=0)
    with torch.no_grad():
        codec.prediction[-1].bias[: codec.kept] = 0
        codec.prediction[-1].weight[: codec.kept] = 0
        latent = codec.latent(data[0])
        stepwise = codec.predict(data[0], Known(OFFSETS), latent, latent[..., :0])
        codec.train()
        whole = codec.predict(data[0], Known(OFFSETS), latent, latent[..., :0])
    torch.testing.assert_close(whole[1:], stepwise[1:], rtol=1e-4, atol=1e-4)


def test_it_learns_what_earlier_tokens_tell():
    torch.manual_seed(0)
    codec = fitted_direct_access(side_channels=0, layers=1, width=32).train()
    lengths = torch.full((8,), 64)
    networks = torch.optim.Adam(codec.prediction.parameters(), lr=5e-3)
    for step in range(60):
        loss = codec(persistent(8, 64, seed=step), lengths).bits.mean()
        networks.zero_grad()
        loss.backward()
        networks.step()
    codec.eval()
    fresh = persistent(8, 64, seed=1000)
    with torch.no_grad():
        learnt = codec(fresh, lengths).bits.mean()
        klt = fitted_klt()(fresh, lengths).bits.mean()
    assert learnt < 0.85 * klt
    sizes = sum(map(len, codec.compress(fresh, lengths))) * 8 / lengths.sum()
    assert sizes == pytest.approx(learnt.item(), rel=0.05)


def test_decoding_with_other_networks_is_noticed(codec, data):
    streams = codec.compress(*data)
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.prediction[-1].bias.add_(0.1)
    with pytest.raises(BitstreamError, match="the codec differs, or this machine"):
        other.decompress(streams, data[1])


def test_decoding_runs_each_token_once(codec, data, monkeypatch):
    tokens = []
    step = type(codec.prediction).step

    def counted(self, inputs, memories):
        tokens.append(len(inputs))
        return step(self, inputs, memories)

    streams = codec.compress(*data)
    monkeypatch.setattr(type(codec.prediction), "step", counted)
    codec.decompress(streams, data[1])
    assert tokens == [8] * 40


def test_training_is_differentiable_in_all_parameters(codec, data):
    codec = copy.deepcopy(codec).train()
    representation = data[0].clone().requires_grad_()
    estimate = codec(representation, data[1])
    (estimate.bits.sum() + estimate.reconstruction.square().sum()).backward()
    missing = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []
    assert representation.grad.abs().sum() > 0


@pytest.mark.parametrize("levels", [0, 5])
def test_a_trellis_is_worth_what_it_is_without_a_context(levels):
    """See test_trellis.py: the same is won of what rounding loses, a channel."""
    fresh, lengths = representations(8, 120, seed=7), torch.full((8,), 120)
    changes = dict(side_channels=0, levels=levels)
    plain, ours = (fitted_direct_access(trellis=put, **changes) for put in (False, True))

    matters = TOKEN_WEIGHTS.log_sensitivity(fresh).exp() if levels else torch.ones(8, 120)

    def objective(codec):
        with torch.no_grad():
            found = codec(fresh, lengths)
        error = (found.reconstruction - fresh) * matters.sqrt()[..., None]
        return divergence_of(error[:, 1:]) + RATE_WEIGHT * found.bits[:, 1:].mean().item()

    saved = (objective(plain) - objective(ours)) / RATE_WEIGHT / plain.kept
    assert 0.05 < saved < 0.3


def test_a_trellis_has_tables_of_its_own():
    DirectAccessHyperparameters(trellis=True)
    with pytest.raises(ValidationError, match="a trellis goes with the family gaussian, not logis"):
        DirectAccessHyperparameters(trellis=True, family="logistic")
