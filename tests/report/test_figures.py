import math
import warnings

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.colors import to_hex

from splitcodec.files import read_json
from splitcodec.report.curves import curves_of, rate_at_divergence
from splitcodec.report.figures import draw, rate_by_split, time_per_token
from splitcodec.report.headlines import headlines
from splitcodec.report.rd_figure import rd_curve
from splitcodec.report.style import save, styles_of
from splitcodec.report.table import read_points

MODEL = synthetic.MODEL


@pytest.fixture(autouse=True)
def no_warnings():
    """Whatever matplotlib complains of, a reader would see."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def points(built):
    return read_points(built / "points.parquet")


@pytest.fixture(scope="module")
def references(built):
    return read_json(built / f"references/{MODEL}.json")


@pytest.fixture(scope="module")
def bounds(built):
    return [read_json(path) for path in sorted(built.glob("bounds/*/*.json"))]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def words(figure) -> str:
    axes = figure.axes[0]
    said = figure.legends[0].get_title().get_text().replace("\xa0", " ")
    return " | ".join([axes.get_title("right"), said, *(text.get_text() for text in axes.texts)])


def marked(figure, points, name) -> set[tuple[float, float]]:
    """Where the figure has markers in the style of a curve."""
    style = styles_of(points)[name]
    return {
        place
        for line in figure.axes[0].lines
        if line.get_marker() == style.marker and to_hex(line.get_color()) == style.colour.lower()
        for place in zip(np.round(line.get_xdata(), 6), np.round(line.get_ydata(), 6), strict=True)
    }


def test_every_figure_is_drawn_as_svg_and_png(built, tmp_path):
    references, bounds = (sorted(built.glob(f"{k}/**/*.json")) for k in ("references", "bounds"))
    paths = draw(built / "points.parquet", references, bounds, tmp_path)
    stems = ["rd-{}-split10", "rd-{}-split20", "rate-by-split-{}", "time-{}"]
    expected = [f"{stem.format(MODEL)}.{suffix}" for stem in stems for suffix in ("svg", "png")]
    assert [path.name for path in paths] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
    assert all(path.stat().st_size > 5000 for path in paths)


def test_the_same_points_give_the_same_bytes(points, references, tmp_path):
    first, second = (
        [path.read_bytes() for path in save(rd_curve(points, MODEL, 20, references), stem)]
        for stem in (tmp_path / "one", tmp_path / "two")
    )
    assert first == second


def test_rd_figure_marks_every_point(points, references):
    figure = rd_curve(points, MODEL, 20, references)
    for curve in curves_of(points[points["split"] == 20]):
        rates, perplexities = curve.points["bits_per_token_file"], curve.points["perplexity"]
        expected = set(zip(np.round(rates, 6), np.round(perplexities, 6), strict=True))
        assert expected <= marked(figure, points, curve.name), curve.name


def test_rd_figure_says_what_a_reader_needs(points, references):
    figure = rd_curve(points, MODEL, 20, references)
    labels, text = legend(figure), words(figure)
    assert "int + zstd (anchor)" in labels
    assert any(label.startswith("klt (BD −") for label in labels)
    assert "fp16 + raw" in labels  # one point has no BD-rate
    assert "int2 (871)" in text
    assert "klt 0.41" in text
    for bits in ("15.6", "9.6", "4.7"):
        assert f": {bits}" in text
    axes = figure.axes[0]
    uncoded = math.exp(references["cross_entropy_uncoded"])
    assert axes.get_ylim()[1] == pytest.approx(2 * uncoded)
    assert axes.get_ylim()[0] < uncoded
    assert axes.get_xlim()[0] < references["model_bits_per_token"]


def test_rd_figure_shows_points_that_are_better_than_uncoded(points, references):
    """A model that has learned the text may be."""
    better = points.copy()
    best = better[(better["split"] == 20) & (better["codec"] == "klt")].index[0]
    better.loc[best, "cross_entropy"] = references["cross_entropy_uncoded"] - 0.35
    better.loc[best, "perplexity"] = math.exp(better.loc[best, "cross_entropy"])
    figure = rd_curve(better, MODEL, 20, references)
    assert figure.axes[0].get_ylim()[0] < 0.99 * better.loc[best, "perplexity"]


def test_rd_figure_says_how_far_from_possible(points, bounds):
    (own,) = (item for item in bounds if item["split"] == 20)
    (klt,) = (c for c in curves_of(points) if (c.name, c.split) == ("klt", 20))
    kl = points.query("codec == 'int4' and coder == 'zstd' and split == 20")["kl"].item()
    times = rate_at_divergence(klt, kl) / (310 * math.log2(5 / kl))
    (headline,) = (h for h in headlines(points) if (h.name, h.split) == ("klt", 20))
    expected = f"klt {headline.ratio:.2f} ({times:.2f})"
    assert expected in words(rd_curve(points, MODEL, 20, bounds=own))
    assert "R(D)" in words(rd_curve(points, MODEL, 20, bounds=own))
    assert "R(D)" not in words(rd_curve(points, MODEL, 20))


def test_rd_figure_of_several_seeds_shows_each_and_their_mean(tmp_path):
    synthetic.build(tmp_path, splits=(20,), seeds=(0, 1, 2), baselines=("int4",))
    points = read_points(synthetic.collect_points(tmp_path))
    figure = rd_curve(points, MODEL, 20)
    (klt,) = (curve for curve in curves_of(points) if curve.name == "klt")
    assert len(marked(figure, points, "klt")) == 12
    rates = np.sort(klt.mean["bits_per_token_file"])
    assert any(
        len(line.get_xdata()) == 4 and np.allclose(np.sort(line.get_xdata()), rates)
        for line in figure.axes[0].lines
    )


PARTS = {
    "one learned codec": lambda p: p[p["codec"] == "klt"],
    "baselines only": lambda p: p[p["lambda"].isna()],
    "one split": lambda p: p[p["split"] == 20],
    "one point": lambda p: p[(p["codec"] == "int4") & (p["coder"] == "zstd") & (p["split"] == 20)],
    "all beyond": lambda p: p[p["codec"] == "int2"],
    "two λ": lambda p: p[p["lambda"].isin([0.0001, 0.003])],
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_figures_of_small_experiments(points, references, bounds, part):
    rows = part(points)
    split = int(rows["split"].max())
    for figure in (
        rd_curve(rows, MODEL, split, None if rows["lambda"].isna().all() else references),
        rate_by_split(rows, MODEL, bounds if split == 20 else []),
        time_per_token(rows, MODEL),
    ):
        figure.draw_without_rendering()


def test_rate_by_split_interpolates_rates_and_bounds(points, references, bounds):
    figure = rate_by_split(points, MODEL, bounds, references)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["klt"].get_xdata()) == [10, 20]
    rate, bound = (lines[name].get_ydata()[1] for name in ("klt", "bound (klt)"))
    assert 509 < rate < 858 + 1e-9  # perplexity 28.10 lies between 30.84 and 28.01
    assert bound == pytest.approx(1.09 * rate)
    assert "fp16 + raw" not in lines


def test_time_figure_shows_medians(points):
    axes = time_per_token(points, MODEL).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    row = names.index("klt")
    shown = {
        line.get_marker(): float(line.get_xdata()[0])
        for line in axes.lines
        if len(line.get_xdata()) == 1 and round(float(line.get_ydata()[0])) == row
    }
    assert shown == pytest.approx({">": 0.021, "<": 0.018, "o": 0.0234, "s": 0.0156})


def test_methods_look_different_and_the_same_everywhere(points):
    named = points.assign(codec=points["codec"].replace("klt", "a codec of tomorrow"))
    both = pd.concat([points, named])
    names = {curve.name for curve in curves_of(both)}
    styles = styles_of(both)
    assert len({styles[name][:2] for name in names}) == len(names)
