import pytest

from splitcodec.report.headlines import headlines
from splitcodec.report.possible import break_even
from splitcodec.report.table import read_points


def test_headline_is_the_ratio_at_the_int4_point(built):
    points = read_points(built / "points.parquet")
    found = {(item.name, item.split): item for item in headlines(points)}
    assert found.keys() == {(name, k) for name in ("klt", "hyperprior") for k in (10, 20)}
    item = found["klt", 20]
    assert item.anchor_rate == 2115
    assert item.quality == pytest.approx(27.95)
    assert 858 < item.rate < 1235  # between the points of perplexity 28.01 and 27.27
    assert item.ratio == pytest.approx(item.rate / 2115)
    assert f"klt needs {item.ratio:.2f} of the bits of int4-groups-of-32 + Z" in item.sentence
    assert f"{item.at_divergence:.2f} at equal divergence" in item.sentence
    ratios = [item.ratio for item in headlines(points)]
    assert ratios == sorted(ratios)


def test_no_headline_beyond_the_measured_range(built):
    points = read_points(built / "points.parquet")
    assert headlines(points[points["perplexity"] > 28]) == []
    assert headlines(points[points["codec"] != "int4"]) == []


def test_what_cannot_be_compared_is_told_from_what_never_pays(built):
    points = read_points(built / "points.parquet")
    near = points[points["split"] == 20]
    klt = near[near["codec"] == "klt"].sort_values("lambda").iloc[-1].to_dict()
    raw = near[near["codec"] == "fp16"].iloc[0].to_dict()
    assert break_even(klt, near, "int4", "zstd") > 0
    assert break_even(raw, near, "int4", "zstd") == 0
    assert break_even(klt, near, "int5", "zstd") is None
