"""The report of image models: rates by picture, and the picture itself beside every split."""

import numpy as np
import pytest
import synthetic
from matplotlib.colors import to_hex
from rich.console import Console

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_json
from splitcodec.report.cards import write_cards
from splitcodec.report.curves import curves_of, rate_at_level
from splitcodec.report.figures import draw, rate_by_split, time_per_token
from splitcodec.report.headlines import headlines
from splitcodec.report.metrics import metrics_of
from splitcodec.report.page import Material, write_report
from splitcodec.report.pictures import read_pictures, rivalries
from splitcodec.report.possible import gaps, rate_distortion_band
from splitcodec.report.rd_figure import rd_curve
from splitcodec.report.style import styles_of
from splitcodec.report.summary import print_summary
from splitcodec.report.table import read_points, write_metrics
from splitcodec.report.terminal import print_comparison, print_curves

MODEL = synthetic.MODEL


@pytest.fixture
def points(results):
    return read_points(synthetic.make_pictures(results))


@pytest.fixture
def rivals(results, points):
    return read_pictures([results / f"pictures/{MODEL}.json"])


def test_curves_of_pictures_have_a_point_a_quality(rivals):
    jpeg, webp = rivals[MODEL]
    assert (jpeg.name, webp.name) == ("JPEG", "WebP")
    assert jpeg.mean["codec"].tolist() == ["JPEG 5", "JPEG 40", "JPEG 90"]
    assert jpeg.mean[jpeg.rate].tolist() == [20_000, 60_000, 200_000]


def test_a_file_without_pictures_is_named(tmp_path):
    for bad in ({}, {"points": [{"codec": "jpeg"}]}, [], {"points": []}):
        write_json(tmp_path / "m.json", bad)
        with pytest.raises(InputError, match=r"m\.json"):
            read_pictures([tmp_path / "m.json"])


def test_splits_compare_by_picture_at_equal_divergence(points, rivals):
    shallow, deep = (curve for curve in curves_of(points) if curve.name == "klt")
    assert (shallow.tokens_a_unit, deep.tokens_a_unit) == (196, 49)
    for curve in (shallow, deep):
        kls = curve.front["kl"]
        level = float(kls.median())
        between = curve.front[curve.rate]
        assert between.min() < rate_at_level(curve, level) < between.max()
    found = rivalries(points, rivals, 0.05)
    assert {item.curve.name for item in found} == {"klt", "hyperprior", "int + zstd"}
    for item in found:
        jpeg = rate_at_level(rivals[MODEL][0], 0.05)
        assert item.ratios["JPEG"] == pytest.approx(item.rate / jpeg)
        near = item.curve.mean.iloc[(item.curve.mean["kl"] - 0.05).abs().argmin()]
        assert 0.3 < item.rate / near["bits_per_picture"] < 3


def test_headlines_speak_of_pictures(points):
    found = headlines(points)
    assert found
    for item in found:
        assert "bits per picture at a divergence of" in item.sentence
        assert "perplexity" not in item.sentence


def test_the_rd_figure_shows_pictures_beside_the_codecs(points, rivals):
    figure = rd_curve(points, MODEL, 20, pictures=rivals[MODEL])
    axes, (legend,) = figure.axes[0], figure.legends
    assert axes.get_xlabel() == "bits per picture (file)"
    assert axes.get_ylabel() == "KL divergence, nats per picture"
    labels = [text.get_text() for text in legend.get_texts()]
    assert any(label.startswith("JPEG (BD ") for label in labels)
    drawn = {
        (style.marker, style.colour.lower()): set()
        for style in (styles_of(points)[name] for name in ("JPEG", "klt"))
    }
    for line in axes.lines:
        key = (line.get_marker(), to_hex(line.get_color()))
        drawn.get(key, set()).update(np.round(line.get_xdata()).tolist())
    jpeg, klt = drawn.values()
    assert {20_000, 60_000, 200_000} <= jpeg
    rates = points.query("codec == 'klt' and split == 20")["bits_per_picture"]
    assert set(rates.round()) <= klt


def test_rate_by_split_has_a_line_for_each_format(points, results, rivals):
    bounds = [read_json(path) for path in sorted(results.glob("bounds/*/*.json"))]
    axes = rate_by_split(points, MODEL, bounds, pictures=rivals[MODEL]).axes[0]
    labels = {line.get_label(): line for line in axes.lines}
    jpeg = rate_at_level(rivals[MODEL][0], 0.05)
    assert labels[f"JPEG ({jpeg:,.0f})"].get_ydata()[0] == pytest.approx(jpeg)
    assert "0.05 nats" in axes.get_title("left")
    shallow, deep = labels["klt"].get_ydata()
    assert shallow > 3 * deep  # four times the tokens


def test_an_encoder_is_measured_by_its_features(results):
    points = read_points(synthetic.make_pictures(results, encoder=True))
    (first,) = metrics_of(points)
    assert first.values(points) == pytest.approx(points["feature_error"])
    figure = rd_curve(points, MODEL, 20)
    assert figure.axes[0].get_ylabel() == "relative square error of features"
    (curve,) = (c for c in curves_of(points) if (c.split, c.name) == (20, "klt"))
    function = {"distortion": 0.001, "shannon_bits_per_token": 3, "gaussian_bits_per_token": 4}
    assert rate_distortion_band([function], curve) == [pytest.approx((3 * 49, 4 * 49, 0.001))]


def test_a_classifier_has_no_rate_distortion_functions(points):
    (curve,) = (c for c in curves_of(points) if (c.split, c.name) == (20, "klt"))
    assert rate_distortion_band([{"distortion": 0.001}], curve) == []
    limits = {"model": MODEL, "split": 20, "rate_distortion": [{"distortion": 0.001}]}
    assert gaps(points, [limits]) == []
    rd_curve(points, MODEL, 20, bounds=limits)


def test_time_is_told_by_picture(points):
    axes = time_per_token(points[points["split"] == 20], MODEL).axes[0]
    row = [label.get_text() for label in axes.get_yticklabels()].index("klt")
    encode = next(
        line.get_xdata()[0]
        for line in axes.lines
        if line.get_marker() == ">" and round(float(line.get_ydata()[0])) == row
    )
    assert encode == pytest.approx(0.021 * 49)
    assert axes.get_xlabel() == "ms per picture"


@pytest.mark.parametrize("encoder", [False, True])
def test_the_page_speaks_of_pictures(results, tmp_path, encoder):
    points = synthetic.make_pictures(results, encoder)
    bounds, pictures = (sorted(results.glob(p)) for p in ("bounds/*/*.json", "pictures/*.json"))
    figures = draw(points, [], bounds, tmp_path, pictures)
    material = Material(figures, [], bounds, synthetic.codecs(results), pictures=pictures)
    write_report(points, material, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    body = page[page.index("<main>") : page.index('<h2 id="provenance">')]
    assert "Against the picture itself" in body
    assert "JPEG 40" in body and "bits/picture" in body
    for word in ("perplexity", "language model", "token ids"):
        assert word not in body, word
    assert ("<th>accuracy" in body) and ("0.3000" in body) == encoder


def test_the_terminal_speaks_of_pictures(results, points, tmp_path):
    console = Console(record=True, width=160)
    print_summary(results, console)
    print_curves(results, console)
    print_comparison(results, "hyperprior", "klt", console)
    text = console.export_text()
    for word in ("bits/picture", "accuracy", "nats divergence", "bits per picture"):
        assert word in text
    assert "uncoded perplexity" not in text
    codecs = [p for p in synthetic.codecs(results) if "/klt/" in str(p)]
    card = write_cards(results / "points.parquet", codecs, tmp_path)[0].read_text()
    assert "bits/picture" in card and "CausalLM" not in card and "perplexity" not in card
    write_metrics(results / "points.parquet", tmp_path / "metrics.json")
    row = read_json(tmp_path / "metrics.json")[MODEL]["split20"]["int4-zstd"]
    assert row.keys() == {"bits_per_picture", "kl"}
