import pytest
import torch

from compressai_oracle import entropy_models
from splitcodec.densities.factorised import DeepFactorised

CHANNELS = 4


def trained_looking(spread=3.0, seed=0):
    """A density with parameters away from their start, float64."""
    torch.manual_seed(seed)
    density = DeepFactorised(CHANNELS, spread).double()
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return density


def support(reach):
    return torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None].expand(-1, CHANNELS)


@pytest.mark.parametrize("spread", [1.0, 3.0, 10.0])
def test_likelihoods_sum_to_one_so_the_cumulative_is_monotone(spread):
    density = trained_looking(spread)
    with torch.no_grad():
        for offset in (0.0, 0.25, 0.5, 0.75):
            # bins count by their size: where the cumulative fell, they would sum to more
            total = density.likelihood(support(3000) + offset).abs().sum(0)
            torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_it_is_compressais_entropy_bottleneck():
    ours = trained_looking().float()
    theirs = entropy_models().EntropyBottleneck(CHANNELS, filters=(3, 3, 3)).eval()
    for name in ("matrices", "biases", "factors"):
        for theirs_one, ours_one in zip(getattr(theirs, name), getattr(ours, name), strict=True):
            theirs_one.data.copy_(ours_one.data)
    # medians at zero: theirs then rounds as ours is given
    theirs.quantiles.data.zero_()
    generator = torch.Generator().manual_seed(1)
    values = (5 * torch.randn(2, 30, CHANNELS, generator=generator)).round()
    with torch.no_grad():
        _, expected = theirs(values.permute(0, 2, 1))
        found = ours.likelihood(values)
    torch.testing.assert_close(
        found.clamp_min(1e-9), expected.permute(0, 2, 1), rtol=1e-4, atol=1e-7
    )


def test_channels_are_independent():
    density = trained_looking()
    values = torch.zeros(1, CHANNELS, dtype=torch.float64)
    before = density.bits(values)
    values[0, 2] = 7
    after = density.bits(values)
    assert torch.equal(before[0, [0, 1, 3]], after[0, [0, 1, 3]])
    assert after[0, 2] != before[0, 2]


def test_shapes_are_kept_and_places_do_not_mix():
    density = trained_looking()
    values = torch.arange(2 * 3 * CHANNELS, dtype=torch.float64).view(2, 3, CHANNELS) - 9
    found = density.likelihood(values)
    assert found.shape == values.shape
    torch.testing.assert_close(found[1, 2], density.likelihood(values[1, 2]))


def test_far_out_the_bits_stay_finite():
    density = trained_looking().float()
    bits = density.bits(torch.full((1, CHANNELS), 1e7))
    torch.testing.assert_close(bits, torch.full_like(bits, 24.0))


def test_gradients_of_the_rate_are_right():
    density = trained_looking()
    generator = torch.Generator().manual_seed(2)
    values = 2 * torch.randn(6, CHANNELS, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(density.bits, values.requires_grad_(), eps=1e-6, atol=1e-6)


def test_it_learns_the_distribution_of_its_data():
    torch.manual_seed(0)
    scales = torch.tensor([0.5, 1.0, 3.0, 6.0])
    values = (torch.randn(4000, CHANNELS) * scales).round()
    density = DeepFactorised(CHANNELS, spread=1.0)
    optimiser = torch.optim.Adam(density.parameters(), lr=0.05)
    for _ in range(150):
        loss = density.bits(values).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    entropies = []
    for column in values.T:
        _, counts = column.unique(return_counts=True)
        shares = counts / counts.sum()
        entropies.append(-(shares * shares.log2()).sum())
    assert loss.item() == pytest.approx(torch.stack(entropies).mean().item(), rel=0.02)


def test_tables_are_integer_forms_of_the_likelihoods():
    density = trained_looking(spread=1.0).float()
    tables = density.tables(reach=20)
    assert tables.lowest.tolist() == [-20] * CHANNELS
    assert tables.sizes.tolist() == [43] * CHANNELS
    with torch.no_grad():
        mass = density.likelihood(support(20).float()).T
    for cumulative, expected in zip(tables.cumulative, mass, strict=True):
        assert (cumulative[0], cumulative[-1]) == (0, 1 << 16)
        assert (cumulative.diff() >= 1).all()
        frequencies = cumulative.diff()[:-1] / (1 << 16)
        torch.testing.assert_close(frequencies, expected, rtol=0, atol=1e-3)
