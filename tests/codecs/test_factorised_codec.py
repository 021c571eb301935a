import copy

import pytest
import torch
from codec_samples import fitted_factorised, fitted_klt, representations


@pytest.fixture(params=["factorised", "fourier"])
def codec(request):
    return fitted_factorised(density=request.param)


def test_it_starts_near_the_klt(codec, data):
    with torch.no_grad():
        expected, found = fitted_klt()(*data), codec(*data)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    assert found.bits.sum() < 1.15 * expected.bits.sum()


def test_training_learns_the_densities(codec):
    representation, lengths = representations(4, 200), torch.full((4,), 200)
    optimiser = torch.optim.Adam(codec.priors(), lr=0.02)
    codec.train()
    for _ in range(60):
        loss = codec(representation, lengths).bits.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    codec.eval()
    codec.update()
    with torch.no_grad():
        learnt = codec(representation, lengths).bits.mean()
        assert learnt < 1.01 * fitted_klt()(representation, lengths).bits.mean()
    sizes = sum(map(len, codec.compress(representation, lengths))) * 8 / 800
    assert sizes == pytest.approx(learnt.item(), rel=0.02)


def test_training_is_differentiable_in_all_parameters(codec, data):
    codec = copy.deepcopy(codec).train()
    estimate = codec(*data)
    (estimate.bits.sum() + estimate.reconstruction.square().sum()).backward()
    missing = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    # at the start a density's factors, and the waves that a real series has not, are at rest
    assert all("density" in name for name in missing)


def test_a_table_covers_its_channel(codec):
    scales = fitted_klt().scales()
    sizes = codec.tables("latent").sizes
    assert (sizes > 4 * scales).all()
