"""The page in a real browser: nothing complains, figures are there, controls do what they say.

Screenshots go to build/screenshots, for people to look at.
"""

import shutil
from pathlib import Path

import pytest
import synthetic

from splitcodec.report.page import Material, write_report

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium (Debian: apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def report(built, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    files = (sorted(built.glob(p)) for p in ("references/*.json", "bounds/*/*.json"))
    write_report(built / "points.parquet", Material([], *files, synthetic.codecs(built)), path)
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, report):
    """The page, opened; fails if the browser complained of anything."""
    complaints = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == []


def test_every_chart_is_drawn(page):
    charts = page.locator(".chart")
    assert charts.count() == 5  # two splits: rate-distortion and link of each, and rate by split
    for chart in charts.all():
        assert chart.locator("svg .series .mark").count() > 1


def test_a_point_tells_its_file_when_it_is_pointed_at(page):
    mark = page.locator('#rd-1 .series[data-name="klt"] .mark').first
    mark.hover()
    tip = page.locator("#rd-1 .tip")
    assert tip.is_visible()
    text = tip.inner_text()
    assert "klt λ=" in text and "bits a token" in text
    assert "bitstreams/smollm2-135m/split20/klt/lambda" in text


def test_methods_are_hidden_and_shown(page):
    series = page.locator('.series[data-name="klt"]')
    before = series.count()
    page.locator('.legend button[data-name="klt"]').first.click()
    assert before > 0 and series.locator(".mark").count() == 0
    page.locator('.legend button[data-name="klt"]').first.click()
    assert series.count() == before


def test_axes_and_quality_are_chosen(page):
    first = page.locator("#rd-0 svg").inner_html()
    page.locator("#x-scale").select_option("linear")
    second = page.locator("#rd-0 svg").inner_html()
    page.locator("#metric").select_option("top1_agreement")
    third = page.locator("#rd-0 svg").inner_html()
    assert len({first, second, third}) == 3
    assert "top-1 agreement" in third


def test_the_table_is_sorted(page):
    heading = page.locator("#points th button", has_text="perplexity")
    column = "rows => rows.map(row => Number(row.cells[9].dataset.value))"
    heading.click()
    rising = page.locator("#points tbody tr").evaluate_all(column)
    assert rising == sorted(rising)
    heading.click()
    assert page.locator("#points tbody tr").evaluate_all(column) == rising[::-1]


def test_light_and_dark_are_switched(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before


@pytest.mark.parametrize("name", ["light", "dark", "narrow", "print"])
def test_nothing_is_wider_than_the_page(page, name):
    page.emulate_media(
        color_scheme="dark" if name == "dark" else "light",
        media="print" if name == "print" else "screen",
    )
    if name == "narrow":
        page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_timeout(200)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{name}.png", full_page=True)
    if name != "print":
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
