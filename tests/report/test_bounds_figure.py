import math
import shutil

import numpy as np
import pandas as pd
import pytest
from synthetic import MODEL, build, collect_points

from splitcodec.errors import SettingsError
from splitcodec.files import read_json
from splitcodec.report.bounds_figure import (
    bounds_by_rate,
    correlation,
    draw_statistics,
    statistics_by_split,
)
from splitcodec.report.paper_figure import draw_figure
from splitcodec.report.table import read_points


def test_exact_relations_have_coefficient_one():
    found = correlation(np.arange(6.0), np.arange(6.0) ** 3)
    assert found.spearman == pytest.approx(1)
    assert 0.8 < found.pearson < 1
    assert found.pearson_interval[0] < found.pearson < found.pearson_interval[1]


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator, truth, inside = np.random.default_rng(0), 0.6, 0
    for _ in range(400):
        first = generator.normal(size=12)
        second = truth * first + math.sqrt(1 - truth**2) * generator.normal(size=12)
        low, high = correlation(first, second).pearson_interval
        inside += low < truth < high
    assert 0.91 < inside / 400 < 0.99


@pytest.mark.parametrize("neighbours", [0.5, 0.9])
def test_intervals_cover_the_truth_where_neighbouring_splits_are_alike(neighbours):
    generator, count, inside = np.random.default_rng(0), 29, 0
    for _ in range(400):
        drawn = generator.normal(size=(count, 2))
        for split in range(1, count):
            fresh = math.sqrt(1 - neighbours**2) * drawn[split]
            drawn[split] = neighbours * drawn[split - 1] + fresh
        limits = correlation(*drawn.T).pearson_interval
        inside += limits is None or limits[0] < 0 < limits[1]
    assert 0.91 < inside / 400 < 0.99  # 0.60 were 29 splits taken as independent, at 0.9


def test_what_lies_on_a_line_has_no_interval():
    zigzag = np.array([0.0, 5.0, 1.0, 4.0, 2.0, 3.0])
    found = correlation(zigzag, 2 * zigzag)
    assert found.pearson == pytest.approx(1)
    assert (found.pearson_interval, found.spearman_interval) == (None, None)


def test_an_experiment_without_bounds_has_no_figure_of_them(results, tmp_path):
    shutil.rmtree(results / "bounds")
    with pytest.raises(SettingsError, match="no bounds of"):
        draw_figure("bounds", results, tmp_path / "a.svg", None, None, None, 6.0)


def test_few_splits_or_constants_have_none():
    assert correlation(np.arange(3.0), np.arange(3.0)) is None
    assert correlation(np.ones(5), np.arange(5.0)) is None
    flat = pd.DataFrame({"split": range(5), "rate": np.arange(5.0)})
    flat = flat.assign(bound=1.0, other=1.0)
    for table, said in ((flat, "constant: no correlation"), (flat[:3], "fewer than 4 splits")):
        assert draw_statistics(table, "bits").axes[0].get_title() == said


def test_the_figure_has_a_point_a_split(tmp_path):
    splits = (5, 10, 15, 20, 25)
    results = build(tmp_path, splits=splits)
    points = read_points(collect_points(results))
    bounds = [read_json(path) for path in sorted(results.glob("bounds/*/*.json"))]
    table = statistics_by_split(points, MODEL, bounds)
    assert list(table["split"]) == list(splits)
    assert table["rate"].notna().all()
    figure = bounds_by_rate(points, MODEL, bounds)
    covariance, _, norm = figure.axes
    assert len(covariance.lines[0].get_xdata()) == 5
    assert "Spearman 1.00" in covariance.get_title()
    assert "no split" in norm.get_title()  # these bounds have no spectral norm


def test_numbers_of_splits_hide_neither_each_other_nor_points():
    generator = np.random.default_rng(0)
    crowded = generator.normal(size=(30, 2)) * generator.uniform(0, 1, size=(30, 1)) ** 3
    table = pd.DataFrame({"split": range(1, 31), "rate": crowded[:, 0]})
    figure = draw_statistics(table.assign(bound=crowded[:, 1], other=crowded[:, 0]), "bits")
    renderer = figure.canvas.get_renderer()
    axes, _ = figure.axes
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert 5 < len(boxes) < 30
    assert not any(box.count_overlaps(boxes[:n]) for n, box in enumerate(boxes))
    places = axes.transData.transform(crowded[:, ::-1])
    assert not any(box.contains(*place) for box in boxes for place in places)
