import pytest

from splitcodec.errors import InputError
from splitcodec.files import write_sealed_json
from splitcodec.report.bounds_figure import draw_bounds
from splitcodec.report.cards import write_cards
from splitcodec.report.figures import draw
from splitcodec.report.page import Material, write_report


@pytest.fixture
def evaluation(tmp_path):
    """A file that is none of those that are asked for."""
    path = tmp_path / "evaluation.json"
    write_sealed_json(path, {"points": []})
    return path


@pytest.mark.parametrize("kind", ["references", "bounds", "codecs", "examples"])
def test_the_page_refuses_a_file_of_another_kind(kind, evaluation, built, tmp_path):
    files = {key: [] for key in ["figures", "references", "bounds", "codecs", "examples"]}
    material = Material(**files | {kind: [evaluation]})
    with pytest.raises(InputError, match=r"evaluation.json has no \w+: name a file of the kind"):
        write_report(built / "points.parquet", material, tmp_path / "report.html")


def test_figures_and_cards_refuse_a_file_of_another_kind(evaluation, built, tmp_path):
    points = built / "points.parquet"
    for make in (
        lambda: draw(points, [evaluation], [], tmp_path),
        lambda: draw(points, [], [evaluation], tmp_path),
        lambda: draw_bounds(points, [evaluation], tmp_path),
        lambda: write_cards(points, [evaluation], tmp_path),
    ):
        with pytest.raises(InputError, match="has no"):
            make()
