import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from small_world import SEQUENCE_LENGTH, write_store
from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.bounds.advice import (
    Advice,
    Calibration,
    Devices,
    Probe,
    Statistics,
    advise,
    as_decoded,
    break_even_bandwidth,
    compare_outputs,
    latency,
    probe,
    rate_at,
    rise_ratio,
    statistics_of,
)
from splitcodec.bounds.advising import _warn_of_few, print_advice
from splitcodec.bounds.advising import advise as advise_on
from splitcodec.bounds.rate_distortion import gaussian_rate, quantiser_rate
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt
from splitcodec.errors import InputError
from splitcodec.training.sensitivity import measure_sensitivity

WEIGHTS = (1e-4, 1e-3, 1e-2)


def gaussian_split(split, variance, channels=10):
    identity, zeros = torch.eye(channels).double(), torch.zeros(channels).double()
    variances = torch.full((channels,), variance).double()
    return Statistics(split, zeros, zeros, identity, identity, variances, 1.0)


def quadratic(statistics, ratio=1.0):
    """A probe of a model whose divergence is exactly the distortion."""
    kl = np.array([quantiser_rate(statistics.variances, w).distortion for w in WEIGHTS])
    return Probe(WEIGHTS, kl, ratio * kl, 0.01 * kl)


def test_the_predicted_rate_is_a_quarter_bit_a_channel_above_the_gaussian_function():
    own = gaussian_split(3, 1.0)
    (line,) = advise([own], [quadratic(own)], 0.005, Calibration(1.0, 0.1))
    least = gaussian_rate(own.variances, math.log1p(0.005)).bits_per_token
    assert line.bits_per_token == pytest.approx(least + 10 * 0.254, rel=0.02)
    assert line.low < line.bits_per_token < line.high
    assert line.rate_weight == pytest.approx(math.log1p(0.005) * 2 * math.log(2) / 10, rel=0.1)


def test_probed_channels_have_the_moments_of_quantised_values():
    variances = torch.tensor([0.5, 4.0, 40.0]).double()
    point = quantiser_rate(variances, 1.0)
    generator = torch.Generator().manual_seed(0)
    latent = variances.sqrt() * torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    decoded = as_decoded(latent, variances, point, generator)
    # The best multiple m of the quantised value q has E[z m q] = E[(m q)²] = ν − d.
    explained = variances - point.errors
    assert (decoded**2).mean(0).tolist() == pytest.approx(
        (explained / point.multiples**2).tolist(), rel=0.02
    )
    assert (latent * decoded).mean(0).tolist() == pytest.approx(
        (explained / point.multiples).tolist(), rel=0.02
    )
    assert not torch.allclose(point.multiples[0], torch.ones(()).double(), atol=0.05)


def test_splits_are_ranked_by_rate_and_the_correction_scales_it():
    splits = [gaussian_split(1, 4.0), gaussian_split(2, 1.0)]
    probes = [quadratic(own) for own in splits]
    lines = advise(splits, probes, 0.005, Calibration(1.0, 0.1))
    assert [line.split for line in lines] == [2, 1]
    # two bits of variance are one of amplitude, in each of ten channels
    assert lines[1].bits_per_token - lines[0].bits_per_token == pytest.approx(10, rel=0.03)
    corrected = advise(splits, probes, 0.005, Calibration(1.1, 0.1))
    assert corrected[0].bits_per_token == pytest.approx(1.1 * lines[0].bits_per_token)


def test_a_target_that_was_not_probed_is_refused():
    own = gaussian_split(1, 1.0)
    with pytest.raises(InputError, match="another target"):
        advise([own], [quadratic(own)], 20.0, Calibration(1.0, 0.1))


def test_a_split_that_was_not_probed_far_enough_is_left_out_and_named(capsys):
    splits = [gaussian_split(1, 4.0), gaussian_split(2, 1.0)]
    near, far = (quadratic(own) for own in splits)
    lines = advise(splits, [near, replace(far, kl=100 * far.kl)], 0.005, Calibration(1.0, 0.1, 1.0))
    assert [line.split for line in lines] == [1]
    assert "split 2: a divergence of" in capsys.readouterr().err


def test_the_rise_is_pooled_over_splits():
    probes = [quadratic(gaussian_split(k, k), ratio) for k, ratio in ((1, 0.8), (2, 0.9), (3, 1.0))]
    ratio, error = rise_ratio(probes)
    assert 0.8 < ratio < 1.0
    assert error == pytest.approx(0.1 / math.sqrt(3), rel=0.01)


def test_a_rate_of_nothing_is_no_error():
    own = gaussian_split(3, 1e-3)
    (line,) = advise([own], [quadratic(own)], 0.0045, Calibration(1.0, 0.1))
    assert 0 <= line.bits_per_token < 1


def test_latency_and_break_even_meet():
    line, devices = Advice(10, 1e-4, 500.0, 400.0, 600.0), Devices(1e6, 20.0, 1000.0)
    expected = 10 / 30 / 20 + 20 / 30 / 1000 + 500 / 1e6
    assert latency(line, 30, devices) == pytest.approx(expected)
    bandwidth = break_even_bandwidth(line, 30, devices)
    there = Devices(bandwidth, 20.0, 1000.0)
    assert latency(line, 30, there) == pytest.approx(1 / 20)
    assert math.isinf(break_even_bandwidth(line, 30, Devices(1e6, 20.0, 10.0)))


def test_where_splitting_never_pays_it_is_told(capsys):
    line = Advice(10, 1e-4, 500.0, 400.0, 600.0)
    report = print_advice([line], 30, 0.02, Devices(1e6, 20.0, 10.0))
    out = capsys.readouterr().out
    assert "never" in out
    assert "the whole model on the sender is no slower: 50 ms/token" in out
    assert report["recommended"]["break_even_bits_per_second"] is None
    json.dumps(report, allow_nan=False)


def test_prediction_on_a_real_model_is_near_the_fitted_codec(world):
    train, final = world.activations(2, "train"), world.activations(3, "train")
    fisher = measure_sensitivity(world.model, {2: train}, 24, 4, 0)[2].matrix
    moments = moments_of(train)
    own = statistics_of(2, moments, fisher, train.tokens / len(train))
    found = probe(world.model, train, final, own, WEIGHTS, sequences=8)
    sample = sample_tokens(train, 4096, 0)
    batch, reference = train.read(range(8)), final.read(range(8))
    for number, weight in enumerate(WEIGHTS[:2]):
        codec = fit_klt(KltHyperparameters(), moments, fisher, sample, weight)
        with torch.inference_mode():
            estimate = codec(batch.representation, batch.lengths)
            changed = [estimate.reconstruction]
            ((kl, _),) = compare_outputs(world.model, 2, changed, batch, reference)
        bits = float(estimate.bits.sum() / batch.lengths.sum())
        assert rate_at(own, weight) == pytest.approx(bits, rel=0.25, abs=1.0)
        assert found.kl[number] == pytest.approx(float(kl.mean()), rel=0.35)


@pytest.mark.parametrize("tokens, warned", [(7, True), (8, False)])
def test_few_tokens_a_channel_are_warned_of(tmp_path, capsys, tokens, warned):
    _warn_of_few(write_store(tmp_path / "a.parquet", [torch.ones(tokens, 6)] * 3))
    assert ("too low: 3.5 tokens a channel, 4 are due" in capsys.readouterr().err) == warned


def test_advice_for_a_model_and_its_tokens(world):
    assert SEQUENCE_LENGTH > 4
    try:
        lines = advise_on(world.model, world.tokens("train"), [1, 2], 0.0005, 8, 0)
    except InputError as error:  # a random model may lie outside what is probed, which it says
        assert "choose another target" in str(error)
    else:
        assert {line.split for line in lines} == {1, 2}
