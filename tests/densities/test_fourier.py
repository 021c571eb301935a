import pytest
import torch

from splitcodec.densities.fourier import COEFFICIENTS, FourierBasis


def shaped(channels=3, size=0.2):
    torch.manual_seed(0)
    density = FourierBasis(channels, torch.tensor([0.7, 1.0, 3.0])[:channels]).double()
    with torch.no_grad():
        density.coefficients.add_(size * torch.randn_like(density.coefficients))
        density.offset.add_(0.3 * torch.randn_like(density.offset))
    return density.requires_grad_(False)


def density_at(density, channel, places):
    """p on (-1, 1) from its definition: the squared size of the sum of exponentials."""
    orders = torch.arange(COEFFICIENTS, dtype=torch.float64)
    waves = torch.exp(1j * torch.pi * orders * places[:, None])
    squared = (waves @ torch.view_as_complex(density.coefficients[channel])).abs().square()
    return squared / torch.trapezoid(squared, places)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_bins_mass_is_the_integral_of_the_squared_sum(channel):
    density = shaped()
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(density_at(density, channel, grid), grid)
    values = torch.arange(-6, 7, dtype=torch.float64)
    scale, offset = density.log_scale[channel].exp(), density.offset[channel]
    ends = [((values + side) / scale - offset).tanh() for side in (-0.5, 0.5)]
    lower, upper = (cumulative[((end + 1) / 2 * 200_000).long().clamp(max=199_999)] for end in ends)
    found = density.likelihood(values[:, None].expand(-1, 3))[:, channel]
    torch.testing.assert_close(found, upper - lower, rtol=0, atol=2e-4)


def test_the_penalty_is_the_variation_of_the_density():
    density = shaped()
    grid = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    variation = 0.0
    for channel in range(3):
        slope = torch.gradient(density_at(density, channel, grid), spacing=(grid,))[0]
        variation += torch.trapezoid(slope.square(), grid).item()
    assert density.penalty().item() == pytest.approx(1e-6 * variation, rel=1e-3)
    assert FourierBasis(2).penalty().item() == 0


def test_the_penalty_pulls_towards_fewer_waves():
    density = shaped().requires_grad_()
    before = density.penalty()
    before.backward()
    with torch.no_grad():
        density.coefficients.sub_(density.coefficients.grad * 10)
    assert density.penalty() < before


def test_it_learns_several_modes():
    """What a location-scale family cannot: the values of a coin with two far sides."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.where(torch.rand(4000, 1, generator=generator) < 0.3, -8.0, 8.0)
    values = (sides + torch.randn(4000, 1, generator=generator)).round()
    distinct, counts = values.unique(return_counts=True)
    shares = counts / counts.sum()
    density = FourierBasis(1, spread=4.0)
    optimiser = torch.optim.Adam(density.parameters(), lr=0.05)
    for _ in range(200):
        loss = (shares * density.bits(distinct[:, None])[:, 0]).sum() + density.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    entropy = -(shares * shares.log2()).sum().item()
    assert density.bits(values).mean().item() < entropy + 0.1


def test_it_has_as_many_coefficients_as_published():
    assert COEFFICIENTS == 60
    assert FourierBasis(3).coefficients.shape == (3, 60, 2), "real and imaginary"
