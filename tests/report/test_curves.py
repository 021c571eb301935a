import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcodec.report.curves import (
    Curve,
    bd_rate,
    compare,
    curve_name,
    curves_of,
    name_order,
    pareto,
    rate_at,
    rate_at_divergence,
    rate_ratio,
)
from splitcodec.report.table import read_points

fast = settings(max_examples=40, deadline=None)
rising = st.lists(st.floats(0.02, 0.5), min_size=3, max_size=7).map(np.cumsum)
factors = st.floats(0.05, 20)


UNCODED = 2.9


def curve(qualities, rates, name="klt", codec="klt", seeds=0) -> Curve:
    """A curve whose λ numbers its points."""
    rows = {
        "codec": codec,
        "lambda": np.arange(len(rates), dtype=float),
        "seed": seeds,
        "bits_per_token_file": np.asarray(rates, dtype=float),
        "bits_per_picture": np.nan,
        "cross_entropy": np.asarray(qualities, dtype=float),
        "cross_entropy_uncoded": UNCODED,
    }
    points = pd.DataFrame(rows)
    for end in ("low", "high"):
        points[f"cross_entropy_{end}"] = points["cross_entropy"]
    return Curve("m", 1, name, points)


def falling(qualities):
    """Rates that fall with the cross-entropy, unevenly."""
    qualities = np.asarray(qualities)
    return 900 * np.exp(-0.8 * (qualities - qualities[0]) - 0.1 * np.sin(3 * qualities))


@fast
@given(rising, factors)
def test_a_factor_in_rate_is_exactly_the_bd_rate_and_the_ratio(steps, factor):
    anchor = curve(3 + steps, falling(steps))
    test = curve(3 + steps, factor * falling(steps))
    delta, ratio = bd_rate(anchor, test), rate_ratio(test, anchor)
    assert delta.percent == pytest.approx(100 * (factor - 1), abs=1e-6 * factor)
    assert delta.overlap == pytest.approx(1)
    assert (delta.low, delta.high) == pytest.approx((3 + steps[0], 3 + steps[-1]))
    assert ratio.smallest == pytest.approx(factor)
    assert ratio.at_points == {"klt": pytest.approx(factor)}


@fast
@given(rising, factors)
def test_bd_rates_of_swapped_curves_are_reciprocal(steps, factor):
    one = curve(3 + steps, falling(steps))
    other = curve(3 + steps, factor * falling(steps) ** 1.1)
    forth, back = bd_rate(one, other).percent, bd_rate(other, one).percent
    assert (1 + forth / 100) * (1 + back / 100) == pytest.approx(1)


def decades(low, high, points):
    """Cross-entropies whose losses are powers of ten, with the exponents."""
    exponents = np.linspace(low, high, points)
    return UNCODED + 10**exponents, exponents


def test_bd_rate_of_straight_lines_is_the_mean_gap_on_the_common_range():
    """Large losses: their scale is that of logarithms."""
    anchor_at, anchor_log = decades(0, 2, 5)
    test_at, test_log = decades(1, 3, 4)
    anchor = curve(anchor_at, 10 ** (4 - 0.5 * anchor_log))
    test = curve(test_at, 10 ** (3.4 - 0.7 * test_log))
    # On 10 to 100 nats the gap of log10 rates is -0.6 - 0.2 x, at its middle -0.9.
    delta = bd_rate(anchor, test)
    assert delta.percent == pytest.approx(100 * (10**-0.9 - 1), rel=1e-3)
    assert (delta.low, delta.high) == pytest.approx((UNCODED + 10, UNCODED + 100))


def test_ratio_of_straight_lines_is_smallest_at_an_end():
    at, log = decades(-1, 1, 5)
    ratio = rate_ratio(curve(at, np.exp(9 - 1.5 * log)), curve(at, np.exp(9 - log)))
    assert ratio.smallest == pytest.approx(math.exp(-0.5))
    assert ratio.smallest_at == pytest.approx(at[-1])


def test_losses_that_noise_makes_negative_are_on_the_scale_too():
    line = curve(UNCODED + np.array([-0.002, 0.0005, 0.01, 0.1]), [4000, 3000, 1500, 500])
    assert 3000 < rate_at(line, UNCODED) < 4000
    assert 1500 < rate_at(line, UNCODED + 0.005) < 3000


@fast
@given(rising)
def test_interpolation_meets_the_points_and_stays_between_them(steps):
    rates = np.sort(falling(steps))[::-1] * np.linspace(1, 0.9, len(steps))
    line = curve(steps, rates)
    assert [rate_at(line, quality) for quality in steps] == pytest.approx(list(rates))
    between = [rate_at(line, quality) for quality in np.linspace(steps[0], steps[-1], 50)]
    assert all(np.diff(between) <= 1e-9)


def test_nothing_is_said_outside_the_measured_range():
    line = curve([3.0, 3.2, 3.5], [900, 500, 200])
    assert rate_at(line, 2.99) is None
    assert rate_at(line, 3.51) is None


def test_curves_that_do_not_overlap_get_no_number():
    near = curve([3.0, 3.1, 3.2, 3.3], [900, 700, 500, 400])
    far = curve([4.0, 4.1, 4.2, 4.3], [900, 700, 500, 400])
    assert bd_rate(near, far) is None
    assert rate_ratio(near, far) is None


def test_two_points_are_too_few_for_a_bd_rate_but_have_a_ratio():
    at, log = decades(0, 1, 4)
    many = curve(at, np.exp(9 - log))
    two = curve(at[[0, 3]], 0.5 * np.exp(9 - log[[0, 3]]))
    assert bd_rate(many, two) is None
    assert rate_ratio(two, many).smallest == pytest.approx(0.5, rel=1e-3)


def test_dominated_points_change_nothing():
    clean = curve([3.0, 3.1, 3.3, 3.6], [900, 600, 400, 200])
    noisy = curve([3.0, 3.1, 3.05, 3.3, 3.4, 3.6], [900, 600, 950, 400, 450, 200])
    assert list(noisy.front["cross_entropy"]) == list(clean.front["cross_entropy"])
    assert noisy.mean["optimal"].sum() == 4
    assert bd_rate(clean, noisy).percent == pytest.approx(0)


def test_a_single_point_can_be_compared_at_its_own_quality():
    line = curve([3.0, 3.1, 3.2], [900, 700, 500])
    point = curve([3.1], [1400], name="fp16 + raw", codec="fp16")
    assert rate_at(point, 3.1) == 1400
    ratio = rate_ratio(line, point)
    assert ratio.at_points == {"fp16": pytest.approx(0.5)}
    assert ratio.smallest == pytest.approx(0.5)


def test_seeds_are_averaged_before_anything_else():
    qualities, rates = np.array([3.0, 3.1, 3.3]), np.array([900.0, 600.0, 300.0])
    two = [curve(qualities, rates * (1 + d), seeds=s).points for s, d in ((0, 0.1), (1, -0.1))]
    line = Curve("m", 1, "klt", pd.concat(two))
    assert list(line.mean["bits_per_token_file"]) == pytest.approx([300, 600, 900])
    assert rate_at(line, 3.1) == pytest.approx(600)


@pytest.mark.parametrize(
    "codec, coder, name",
    [
        ("klt", "ans", "klt"),
        ("int4", "zstd", "int + zstd"),
        ("int8", "raw", "int + raw"),
        ("fp16", "deflate", "fp16 + deflate"),
    ],
)
def test_names_of_curves(codec, coder, name):
    assert curve_name(codec, coder) == name


def test_points_that_no_other_beats():
    rates, losses = [3, 1, 2, 1, 1], [1, 3, 3, 3, 4]
    assert pareto(rates, losses).tolist() == [1, 0]  # of equal ones the first
    assert pareto([], []).tolist() == []


def test_order_of_curves(built):
    names = [c.name for c in curves_of(read_points(built / "points.parquet")) if c.split == 20]
    ints, halves = ([f"{k} + {c}" for c in ("zstd", "deflate", "raw")] for k in ("int", "fp16"))
    assert names == ["hyperprior", "klt", *ints, *halves]
    assert names == sorted(set(names), key=name_order)


def test_the_rate_at_equal_divergence_follows_a_power_law():
    points = curve([3.0, 3.1, 3.4], [1600, 800, 400]).points.assign(kl=[0.01, 0.04, 0.16])
    power = Curve("m", 1, "klt", points)
    assert rate_at_divergence(power, 0.02) == pytest.approx(800 * 2**0.5)
    assert rate_at_divergence(power, 0.2) is None


def test_every_curve_is_compared_with_int_zstd_of_its_split(built):
    items = {(i.curve.split, i.curve.name): i for i in compare(read_points(built / "points.csv"))}
    assert items[20, "int + zstd"].bd is None
    assert items[20, "fp16 + raw"].bd is None
    assert items[20, "klt"].bd.percent < items[20, "int + deflate"].bd.percent
    assert set(items[20, "klt"].ratio.at_points) == {"int3", "int4"}
