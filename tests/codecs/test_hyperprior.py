import copy

import pytest
import torch
from codec_samples import fitted_hyperprior, fitted_klt, representations

from splitcodec.errors import BitstreamError


def test_it_starts_with_the_rate_and_reconstruction_of_the_klt(data):
    klt = fitted_klt()
    start = fitted_hyperprior()
    with torch.no_grad():
        for parameter in start.prediction[-1].parameters():
            parameter.zero_()
        expected, found = klt(*data), start(*data)
        side = start.side_density.bits(torch.zeros(1, 5)).min()
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    # what it costs more is the side information
    assert (found.bits >= expected.bits - 1e-2)[expected.bits > 0].all()
    assert side > 0


def test_decoding_with_other_networks_is_noticed(hyperprior, data):
    streams = hyperprior.compress(*data)
    other = copy.deepcopy(hyperprior)
    with torch.no_grad():
        other.prediction[-1].bias.add_(0.1)
    with pytest.raises(BitstreamError, match="the codec differs, or this machine"):
        other.decompress(streams, data[1])


def test_the_network_is_used_mean_and_scale_change_the_rate(hyperprior, data):
    other = copy.deepcopy(hyperprior)
    with torch.no_grad():
        other.prediction[-1].bias[0] += 3
        before, after = hyperprior(*data).bits.sum(), other(*data).bits.sum()
    assert after > before


def test_training_is_noisy_and_differentiable_in_all_parameters(data):
    codec = fitted_hyperprior().train()
    representation = data[0].clone().requires_grad_()
    torch.manual_seed(0)
    estimate = codec(representation, data[1])
    again = codec(representation, data[1])
    assert not torch.equal(estimate.bits, again.bits)
    (estimate.bits.sum() + estimate.reconstruction.square().sum()).backward()
    missing = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []
    assert representation.grad.abs().sum() > 0


def test_noisy_and_rounded_rates_agree(data):
    codec = fitted_hyperprior()
    with torch.no_grad():
        rounded = codec(*data).bits.sum().item()
        codec.train()
        torch.manual_seed(0)
        noisy = sum(codec(*data).bits.sum().item() for _ in range(5)) / 5
    assert noisy == pytest.approx(rounded, rel=0.1)


def test_the_gradient_passes_rounding_in_the_reconstruction():
    codec = fitted_hyperprior().train()
    representation = representations(1, 6).requires_grad_()
    reconstruction = codec(representation, torch.tensor([6])).reconstruction
    expected = (codec.synthesis @ codec.analysis).detach()
    (row,) = torch.autograd.grad(reconstruction[0, 3, 2], representation)
    torch.testing.assert_close(row[0, 3], expected[2], rtol=1e-3, atol=1e-4)


def test_update_rebuilds_the_side_tables():
    codec = fitted_hyperprior()
    before = codec.side_cumulative.clone()
    with torch.no_grad():
        codec.side_density.biases[0].add_(0.3)
    assert torch.equal(codec.side_cumulative, before)
    codec.update()
    assert not torch.equal(codec.side_cumulative, before)
    assert codec.side_cumulative[:, 0].eq(0).all()
