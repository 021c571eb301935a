import math

import pytest
import torch
from codec_samples import (
    CHANNELS,
    MEAN,
    TOKEN_WEIGHTS,
    divergence_of,
    fitted_direct_access,
    fitted_hyperprior,
    fitted_klt,
    representations,
)

from splitcodec.codecs.catalogue import LOG_RATE_WEIGHT_A_LEVEL
from splitcodec.codecs.levels import UNIT, Levels, TokenWeights

LENGTHS = torch.tensor([40, 40])
DATA = representations(2, 40)
CODECS = {
    "klt": lambda: fitted_klt(levels=6),
    "hyperprior": lambda: fitted_hyperprior(levels=6),
    "direct-access": lambda: fitted_direct_access(levels=6, history=True),
}


@pytest.fixture(params=CODECS)
def codec(request):
    return CODECS[request.param]()


def levels_with(weight: float, reach: int = 6) -> Levels:
    """One channel, whose value times `weight` is the logarithm of the sensitivity."""
    one = torch.ones(1, dtype=torch.float64)
    levels = Levels(1, reach)
    levels.start_from(TokenWeights(0 * one, one, weight * one, 0 * one[0]))
    return levels


def test_a_token_that_matters_s_times_has_steps_shorter_by_its_root():
    levels = levels_with(1.0, reach=12)
    values = torch.linspace(-4, 4, 400)[:, None]
    steps = UNIT * levels.choose(values)
    assert (steps + 0.5 * values[:, 0]).abs().max() <= UNIT / 2 + 1e-6


def test_steps_grow_with_the_root_of_lambda():
    levels = levels_with(0.0, reach=12)
    assert pytest.approx(2 * UNIT, rel=1e-3) == LOG_RATE_WEIGHT_A_LEVEL
    for factor in (0.1, 1.0, 7.3):
        levels.set_rate(factor)
        level = levels.choose(torch.zeros(1, 1)).item()
        assert abs(UNIT * level - 0.5 * math.log(factor)) <= UNIT / 2 + 1e-6


def test_what_is_sent_of_a_level_gives_the_level():
    levels = levels_with(1.0)
    for factor in (1e-9, 0.2, 1.0, 30.0, 1e9):
        levels.set_rate(factor)
        chosen = levels.choose(torch.linspace(-9, 9, 100)[:, None])
        assert chosen.abs().max() <= levels.reach
        assert torch.equal(levels.levels(levels.symbols(chosen).to(torch.int32)), chosen)


def test_its_bits_are_those_of_its_table():
    levels = levels_with(1.0)
    values = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0))
    levels.count(values)
    chosen = levels.choose(values)
    shares = torch.bincount(chosen + levels.reach).double() / len(chosen)
    entropy = -(shares * shares.clamp_min(1e-30).log2()).sum().item()
    assert levels.bits(chosen, levels.tables()).mean().item() == pytest.approx(entropy, abs=0.02)


def test_what_is_decoded_is_what_was_estimated(codec):
    with torch.no_grad():
        expected = codec(DATA, LENGTHS)
    decoded = codec.decompress(codec.compress(DATA, LENGTHS), LENGTHS)
    torch.testing.assert_close(decoded, expected.reconstruction, rtol=1e-4, atol=1e-3)


def test_tokens_that_matter_get_more_bits_and_less_error(codec):
    with torch.no_grad():
        estimate = codec(DATA, LENGTHS)
    matters = TOKEN_WEIGHTS.log_sensitivity(DATA)[:, 1:]
    much, little = matters > 0.5, matters < -0.5
    errors = (estimate.reconstruction - DATA)[:, 1:]
    bits = estimate.bits[:, 1:]
    assert bits[much].mean() > bits[little].mean() + 1
    assert divergence_of(errors[much]) < 0.7 * divergence_of(errors[little])


def test_one_codec_covers_a_range_of_rates(codec):
    rates, errors = [], []
    for factor in (0.2, 1.0, 5.0):
        codec.levels.set_rate(factor)
        with torch.no_grad():
            estimate = codec(DATA, LENGTHS)
        streams = codec.compress(DATA, LENGTHS)
        codec.decompress(streams, LENGTHS)
        rates.append(estimate.bits.mean().item())
        errors.append(divergence_of(estimate.reconstruction - DATA))
        size = 8 * sum(map(len, streams)) / int(LENGTHS.sum())
        assert size == pytest.approx(rates[-1], rel=0.03, abs=2)
    assert rates == sorted(rates, reverse=True)
    assert errors == sorted(errors)


def test_weighted_distortion_is_less_than_with_equal_steps():
    """½ s eᵀ G e + λ bits, which levels are made to minimise."""
    values = representations(1, 4001, seed=3)[:, 1:]
    values = torch.cat([values[:, :1], values], 1)
    lengths = torch.tensor([values.shape[1]])
    shares = TOKEN_WEIGHTS.log_sensitivity(values)[0].exp()

    def objective(codec):
        with torch.no_grad():
            estimate = codec(values, lengths)
        errors = (estimate.reconstruction - values)[0, 1:] * shares[1:, None].sqrt()
        return divergence_of(errors) + 0.003 * estimate.bits[0, 1:].mean().item()

    assert objective(fitted_klt(0.003, levels=8)) < 0.97 * objective(fitted_klt(0.003))


def test_the_encoder_predicts_in_double_precision_one_token_at_a_time(codec):
    whole = codec.levels.choose(DATA)
    for token in (1, 17):
        assert torch.equal(codec.levels.choose(DATA[:, token]), whole[:, token])


def test_a_codec_of_no_channels_still_has_levels():
    codec = fitted_klt(1e4, levels=3)
    assert codec.kept == 0
    decoded = codec.decompress(codec.compress(DATA, LENGTHS), LENGTHS)
    torch.testing.assert_close(decoded[:, 1:], MEAN.float().expand(2, 39, CHANNELS))
