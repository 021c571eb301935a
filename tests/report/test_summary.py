import io

import pytest
import synthetic
from rich.console import Console
from rich.text import Text

from splitcodec.errors import InputError
from splitcodec.files import write_json
from splitcodec.report.curves import compare
from splitcodec.report.headlines import headlines
from splitcodec.report.summary import print_summary
from splitcodec.report.table import read_points, write_points


def summary(results, **options) -> str:
    file = io.StringIO()
    print_summary(results, Console(file=file, highlight=False, **options))
    return file.getvalue()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_every_point_has_a_row(built):
    text = summary(built)
    assert ["int4", "zstd", "2,115.0", "0.229", "27.95", "+4.4", "0.0479", "0.821", "0.0168"] in [
        row[:9] for row in rows(text)
    ]
    assert ["klt", "ans", "0.001", "509.0", "0.055", "30.84"] in [row[:6] for row in rows(text)]
    kinds = [row[0] for row in rows(text) if row and row[0] in (*synthetic.LEARNED, "int3", "fp16")]
    assert kinds == 2 * (["hyperprior"] * 4 + ["klt"] * 4 + ["int3"] * 3 + ["fp16"] * 3)


def test_the_headline_is_stated(built):
    text = " ".join(summary(built).split())
    points = read_points(built / "points.parquet")
    for item in headlines(points):
        assert item.sentence in text
    compared = [item for item in compare(points) if item.curve.name == "klt"]
    assert len(compared) == 2
    for item in compared:
        assert f"BD-rate of klt against int + zstd {item.bd.percent:+.1f} %" in text


@pytest.mark.parametrize(
    "seeds, options",
    [
        ((0, 1), {}),
        ((0, 1), {"width": 300}),
        ((0, 1), {"width": 300, "force_terminal": True}),
        ((0,), {"width": 80, "force_terminal": True}),
    ],
)
def test_it_fits_a_hundred_columns_and_cuts_nothing(tmp_path, seeds, options):
    results = synthetic.build(tmp_path, splits=(20,), seeds=seeds)
    synthetic.collect_points(results)
    text = Text.from_ansi(summary(results, **options)).plain
    tables = text[: text.index("points      ")]
    assert max(map(len, tables.splitlines())) <= min(options.get("width", 100), 100)
    assert "…" not in text


def test_a_pipe_gets_plain_text(built):
    assert "\x1b" not in summary(built)


def test_only_what_exists_is_pointed_at(results):
    assert str(results / "points.csv") in summary(results)
    assert "report.html" not in summary(results)
    (results / "report.html").touch()
    (results / "figures").mkdir()
    write_json(results / "mlflow-runs.json", {"command": "mlflow ui --x", "page": "http://a/b"})
    text = summary(results)
    for words in (str(results / "report.html"), str(results / "figures"), "mlflow ui --x"):
        assert words in text
    assert "http://a/b" in text


def test_without_learned_codecs_it_says_so(tmp_path):
    results = synthetic.build(tmp_path, splits=(20,), learned=())
    synthetic.collect_points(results)
    assert "No learned codec was measured on both sides" in summary(results)


def test_ruined_points_stay_in_their_columns(results):
    points = read_points(results / "points.parquet")
    points.loc[points["codec"] == "int2", "perplexity"] = 3.2e9
    write_points(points, results / "points.csv", results / "points.parquet")
    text = summary(results)
    assert "3.2e+09" in text
    assert "…" not in text


def test_missing_results_give_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="run the experiment first"):
        summary(tmp_path)
