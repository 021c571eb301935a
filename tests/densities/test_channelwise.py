"""What must hold for every density with a shape a channel."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcodec.coding.entropy import decode, encode
from splitcodec.densities.channelwise import logistic_scale
from splitcodec.densities.factorised import DeepFactorised
from splitcodec.densities.fourier import FourierBasis

CHANNELS = 4
DENSITIES = [DeepFactorised, FourierBasis]


def trained_looking(density_class, spread=3.0, seed=0):
    """A density with parameters away from their start, float64."""
    torch.manual_seed(seed)
    density = density_class(CHANNELS, spread).double()
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return density


@pytest.fixture(params=DENSITIES)
def density_class(request):
    return request.param


@pytest.fixture
def density(density_class):
    return trained_looking(density_class)


def support(reach):
    return torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None].expand(-1, CHANNELS)


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 10.0])
def test_likelihoods_are_positive_and_sum_to_one(density_class, spread):
    density = trained_looking(density_class, spread)
    with torch.no_grad():
        for offset in (0.0, 0.25, 0.5, 0.75):
            likelihood = density.likelihood(support(3000) + offset)
            # bins count by their size: where the cumulative fell, they would sum to more
            total = likelihood.abs().sum(0)
            torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)
            assert likelihood.min() > -1e-12


def test_channels_are_independent(density):
    values = torch.zeros(1, CHANNELS, dtype=torch.float64)
    before = density.bits(values)
    values[0, 2] = 7
    after = density.bits(values)
    assert torch.equal(before[0, [0, 1, 3]], after[0, [0, 1, 3]])
    assert after[0, 2] != before[0, 2]


def test_shapes_are_kept_and_places_do_not_mix(density):
    values = torch.arange(2 * 3 * CHANNELS, dtype=torch.float64).view(2, 3, CHANNELS) - 9
    found = density.likelihood(values)
    assert found.shape == values.shape
    torch.testing.assert_close(found[1, 2], density.likelihood(values[1, 2]))


def test_far_out_bits_and_gradients_stay_finite(density):
    density = density.float()
    values = torch.tensor([[1e2], [-1e3], [1e7]]).expand(-1, CHANNELS).clone().requires_grad_()
    bits = density.bits(values)
    torch.testing.assert_close(bits[2], torch.full((CHANNELS,), 24.0))
    bits.sum().backward()
    assert all(p.grad.isfinite().all() for p in [values, *density.parameters()])


def test_gradients_of_the_rate_are_right(density):
    generator = torch.Generator().manual_seed(2)
    values = 2 * torch.randn(6, CHANNELS, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(density.bits, values.requires_grad_(), eps=1e-6, atol=1e-6)


def test_so_are_those_of_its_parameters(density):
    generator = torch.Generator().manual_seed(3)
    values = 2 * torch.randn(6, CHANNELS, generator=generator, dtype=torch.float64)
    learned = [p for p in density.parameters() if p.requires_grad]
    density.bits(values).sum().backward()
    for parameter in learned:
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in torch.randperm(len(flat), generator=generator)[:12].tolist():
            before, found = flat[place].item(), []
            for step in (1e-5, -1e-5):
                flat[place] = before + step
                with torch.no_grad():
                    found.append(density.bits(values).sum().item())
            flat[place] = before
            expected = (found[0] - found[1]) / 2e-5
            assert gradient[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_many_rows_are_as_few(density):
    values = torch.linspace(-9, 9, 20_000, dtype=torch.float64)[:, None].repeat(1, CHANNELS)
    with torch.no_grad():
        together, alone = density.bits(values), density.bits(values[12_345:12_350])
    torch.testing.assert_close(together[12_345:12_350], alone)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 5.0, 50.0])
def test_it_starts_at_the_scale_that_it_is_told(density_class, deviation):
    torch.manual_seed(0)
    density = density_class(CHANNELS)
    deviations = deviation * torch.tensor([1.0, 1.5, 0.7, 1.0])
    density.initialise(logistic_scale(deviations))
    values = (torch.randn(4000, CHANNELS) * deviations).round()
    with torch.no_grad():
        bits = density.bits(values).mean(0)
    noise = deviations.square() + 1 / 12
    entropy = 0.5 * torch.log2(2 * math.pi * math.e * noise)
    assert (bits < entropy + 0.1).all()


def test_it_learns_the_distribution_of_its_data(density_class):
    torch.manual_seed(0)
    scales = torch.tensor([0.5, 1.0, 3.0, 6.0])
    values = (torch.randn(4000, CHANNELS) * scales).round()
    density = density_class(CHANNELS, spread=1.0)
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


def test_tables_are_integer_forms_of_the_likelihoods(density_class):
    density = trained_looking(density_class, spread=1.0).float()
    tables = density.tables()
    with torch.no_grad():
        mass = density.likelihood(support(511).float()).T
    for row, expected in enumerate(mass):
        size, first = int(tables.sizes[row]), int(tables.lowest[row]) + 511
        cumulative = tables.cumulative[row, :size]
        assert (cumulative[0], cumulative[-1]) == (0, 1 << 16)
        assert (cumulative.diff() >= 1).all()
        frequencies = cumulative.diff()[:-1] / (1 << 16)
        inside = expected[first : first + size - 2]
        torch.testing.assert_close(frequencies, inside, rtol=0, atol=1e-3)
        assert 1 - inside.sum() < 4 * 2.0**-17


def test_tables_end_where_the_mass_does_or_at_their_reach(density_class):
    density = density_class(2)
    density.initialise(torch.tensor([0.2, 500.0]))
    tables = density.tables(reach=20)
    assert tables.sizes[0] < 20
    assert (tables.sizes[1], tables.lowest[1]) == (43, -20)


def test_tables_of_mass_out_of_reach_hold_something(density_class):
    density = density_class(1, spread=0.1)
    with torch.no_grad():
        if density_class is FourierBasis:
            density.offset.fill_(1e4)
        else:
            density.biases[0].fill_(-1e4)
    tables = density.tables(reach=3)
    assert tables.sizes[0] >= 3
    assert tables.cumulative[0].diff().ge(0).all()


@given(st.sampled_from(DENSITIES), st.floats(0.1, 60), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_all_symbols_come_back_under_the_tables(density_class, spread, seed):
    tables = trained_looking(density_class, spread, seed).float().tables()
    generator = torch.Generator().manual_seed(seed)
    indexes = torch.randint(-1, CHANNELS, (3, 40), generator=generator, dtype=torch.int32)
    # heavy tails, so that some symbols escape
    values = (spread * torch.randn(indexes.shape, generator=generator) ** 3).round()
    symbols = torch.where(indexes >= 0, values.to(torch.int32), 0)
    assert torch.equal(decode(encode(symbols, indexes, tables), indexes, tables), symbols)
