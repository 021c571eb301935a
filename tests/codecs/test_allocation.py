import math

import numpy as np
import pytest
import torch
from codec_samples import CHANNELS, fitted_klt
from scipy.stats import norm

from splitcodec.codecs.allocation import choose_quantisation
from splitcodec.densities.location_scale import Gaussian, table_scales


def draw(deviations, samples=40_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, len(deviations), generator=generator) * torch.tensor(deviations)


def cost_of(chosen, latents, rate_weight):
    """½ error² and bits of each channel, counted anew."""
    symbols = (latents / chosen.steps).round()
    decoded = symbols * chosen.steps
    multiple = (latents * decoded).mean(0) / decoded.square().mean(0).clamp_min(1e-12)
    error = 0.5 * (latents - multiple * decoded).square().mean(0)
    scales = table_scales()[chosen.tables.long()]
    bits = Gaussian().bits(symbols.double(), scales).mean(0)
    dropped = 0.5 * latents.square().mean(0)
    return torch.where(chosen.coded, error, dropped), torch.where(chosen.coded, bits, 0.0)


def least_cost(deviation, rate_weight):
    """Brute force: the best step of a Gaussian with ideal coder and multiple, or dropping it."""
    best = 0.5 * deviation**2
    for step in np.geomspace(0.02, 20, 800) * math.sqrt(12 * rate_weight):
        reach = int(np.ceil(8 * deviation / step)) + 1
        edges = (np.arange(-reach, reach + 2) - 0.5) * step / deviation
        mass = np.diff(norm.cdf(edges))
        moments = -deviation * np.diff(norm.pdf(edges))
        symbols = np.arange(-reach, reach + 1)
        gain = (symbols * moments).sum() / max(step * (symbols**2 * mass).sum(), 1e-300)
        error = deviation**2 - gain * step * (symbols * moments).sum()
        rate = -(mass[mass > 0] * np.log2(mass[mass > 0])).sum()
        best = min(best, 0.5 * error + rate_weight * rate)
    return best


@pytest.mark.parametrize("deviation", [0.2, 0.6, 1.0, 2.0, 5.0, 30.0])
def test_the_choice_is_as_good_as_brute_force(deviation):
    rate_weight = 0.1
    latents = draw([deviation])
    chosen = choose_quantisation(latents, rate_weight)
    distortion, bits = cost_of(chosen, draw([deviation], seed=1), rate_weight)
    cost = (distortion + rate_weight * bits).item()
    least = least_cost(deviation, rate_weight)
    assert 0.97 * least < cost < 1.02 * least


def test_at_high_rate_it_is_what_theory_says():
    rate_weight, deviation = 0.01, 6.0
    latents = draw([deviation])
    chosen = choose_quantisation(latents, rate_weight)
    step = math.sqrt(12 * rate_weight / math.log(2))
    assert chosen.steps.item() == pytest.approx(step, rel=0.2)
    distortion, bits = cost_of(chosen, draw([deviation], seed=1), rate_weight)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * deviation**2)
    used = chosen.steps.item()
    assert distortion.item() == pytest.approx(0.5 * used**2 / 12, rel=0.03)
    assert bits.item() == pytest.approx(entropy - math.log2(used), abs=0.02)
    theory = 0.5 * step**2 / 12 + rate_weight * (entropy - math.log2(step))
    assert (distortion + rate_weight * bits).item() == pytest.approx(theory, rel=0.01)


def test_channels_not_worth_their_bits_are_dropped():
    rate_weight = 0.1
    deviations = [0.01, 0.1, 0.3, 3.0]
    chosen = choose_quantisation(draw(deviations), rate_weight)
    assert chosen.coded.tolist() == [False, False, False, True]
    assert fitted_klt(1e-6).kept == CHANNELS
    kept = [fitted_klt(rate_weight).kept for rate_weight in (0.001, 0.01, 0.1, 1.0)]
    assert kept == sorted(kept, reverse=True)
    assert 0 < kept[2] < CHANNELS


def test_a_channel_is_not_coded_that_hardly_adds_to_what_the_others_do():
    generator = torch.Generator().manual_seed(0)
    strong = 10 * torch.randn(4096, 8, generator=generator)
    seldom = torch.zeros(4096, 1)
    seldom[7] = 1.0
    beside_one = choose_quantisation(torch.cat([strong[:, :1], seldom], 1), 0.01)
    beside_many = choose_quantisation(torch.cat([strong, seldom], 1), 0.01)
    assert beside_one.coded.tolist() == [True, True]
    assert beside_many.coded.tolist() == [True] * 8 + [False]
