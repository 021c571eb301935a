import re
from html.parser import HTMLParser

import pytest
import synthetic

from splitcodec.errors import InputError
from splitcodec.report.figures import draw
from splitcodec.report.headlines import headlines
from splitcodec.report.page import Material, write_report
from splitcodec.report.table import COLUMNS, read_points, write_points


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.places, self.tags, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
                self.places.append(value)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def write(results, html, figures):
    places = ("references/*.json", "bounds/*/*.json", "codecs/*/*/*/*/codec.json")
    places += ("evaluation/*/*/*/*.json", "examples/*/*/*/*.json")
    files = (sorted(results.glob(place)) for place in places)
    write_report(results / "points.parquet", Material(figures, *files), html)
    return html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures(built, tmp_path_factory):
    directory = tmp_path_factory.mktemp("figures")
    parts = (sorted(built.glob(p)) for p in ("references/*.json", "bounds/*/*.json"))
    return draw(built / "points.parquet", *parts, directory)


@pytest.fixture(scope="module")
def source(built, figures, tmp_path_factory):
    return write(built, tmp_path_factory.mktemp("page") / "report.html", figures)


def test_the_page_needs_nothing_from_elsewhere(source):
    page = Page(source)
    assert page.places  # sections, and glyphs of the figures, inside the page
    # An empty icon, so that browsers ask for none.
    assert all(place.startswith("#") or place == "data:," for place in page.places)
    assert not {"iframe", "img", "object", "embed"} & set(page.tags)
    outside = set(re.findall(r"https?://[^\s\"'<)]+", source))
    assert all(address.startswith("http://www.w3.org/") for address in outside), outside
    assert "@import" not in source


def test_ids_are_unique_and_references_meet(source):
    page = Page(source)
    assert len(page.ids) == len(set(page.ids))
    used = set(re.findall(r"url\(#([\w-]+)\)", source))
    used |= {place[1:] for place in page.places if place.startswith("#")}
    assert used <= set(page.ids)


def test_the_page_says_the_headlines_and_explains_all_columns(source, built):
    text = Page(source).text
    for item in headlines(read_points(built / "points.parquet")):
        assert item.sentence in text
    for column in COLUMNS:
        assert column.name in text
        assert column.meaning in text


def test_the_page_holds_points_figures_and_provenance(source, built):
    page = Page(source)
    points = read_points(built / "points.parquet")
    table = source[source.index('<table id="points">') :]
    assert table.count("data-value=") == len(points) * table.count("<button")
    assert page.tags.count("svg") == 2  # time and phases; the script draws the others
    for word in (
        synthetic.GIT_COMMIT,
        "AMD EPYC 9B14",
        "torch 2.13.0",
        points["data_hash"].iloc[0],
    ):
        assert word in page.text
    assert "49,152" in page.text
    assert "Rademacher" in page.text


def test_the_page_follows_the_readers_scheme_and_prints(source):
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert "#22262b" not in re.sub(r"<style>.*?</style>", "", source, count=1, flags=re.DOTALL)


def test_the_same_artefacts_give_the_same_page(source, built, figures, tmp_path):
    assert write(built, tmp_path / "again.html", figures) == source


def test_names_are_escaped(results, figures, tmp_path):
    points = read_points(results / "points.parquet")
    points["experiment"] = "<script>alert(1)</script>"
    write_points(points, results / "points.csv", results / "points.parquet")
    text = write(results, tmp_path / "report.html", figures)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_points_say_the_mode_where_something_learns(source, results, figures, tmp_path):
    heading = '<button type="button">mode<'
    assert heading not in source.replace("\n", "")
    points = read_points(results / "points.parquet")
    points.loc[points["codec"] == "hyperprior", "mode"] = "back-adapters"
    write_points(points, results / "points.csv", results / "points.parquet")
    text = write(results, tmp_path / "report.html", figures)
    assert heading in text.replace("\n", "")
    assert "back-adapters" in text[text.index('<table id="points">') :]


def test_without_learned_codecs_the_page_says_so(tmp_path):
    results = synthetic.build(tmp_path, splits=(20,), learned=())
    synthetic.collect_points(results)
    assert "there is no headline ratio" in Page(write(results, tmp_path / "report.html", [])).text


@pytest.mark.parametrize("damage", ["missing", "not SVG", "foreign"])
def test_bad_figures_give_one_clear_line(built, tmp_path, damage):
    path = tmp_path / ("holiday.svg" if damage == "foreign" else "rd-m-split1.svg")
    if damage != "missing":
        path.write_text("a picture" if damage == "not SVG" else "<svg></svg>")
    with pytest.raises(InputError, match=path.name):
        write(built, tmp_path / "report.html", [path])
    assert not (tmp_path / "report.html").exists()
