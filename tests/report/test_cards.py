import json

import synthetic
from rich.console import Console

from splitcodec.report.cards import write_cards
from splitcodec.report.terminal import print_card, print_comparison, print_curves, sparkline


def test_a_card_has_its_curve_and_marks_its_own_point(built, tmp_path):
    codecs = [p for p in synthetic.codecs(built) if "/klt/" in str(p)]
    paths = write_cards(built / "points.parquet", codecs, tmp_path)
    assert len(paths) == len(codecs)
    card = json.loads(paths[0].with_suffix(".json").read_text())
    assert len(card["points"]) == len(synthetic.LAMBDAS)
    text = paths[0].read_text()
    assert card["hash"] in text and text.count("\n| **") == 1
    assert 'with_codec(model, "' in text


def test_a_baseline_has_a_card_of_its_coder(built, tmp_path):
    codecs = [p for p in synthetic.codecs(built) if "/int8/" in str(p)]
    text = write_cards(built / "points.parquet", codecs, tmp_path)[0].read_text()
    assert text.startswith("# int8 + ") and "**what learned**: nothing;" in text


def test_curves_on_the_terminal(built, tmp_path):
    console = Console(record=True, width=140)
    print_curves(built, console)
    print_comparison(built, "hyperprior", "klt", console)
    print_card(next(p for p in synthetic.codecs(built) if "/klt/" in str(p)).parent, console)
    text = console.export_text()
    for word in ("int + zstd", "BD-rate", "+5 %", "Limits"):
        assert word in text


def test_a_sparkline_spans_its_values():
    assert sparkline([3.0, 1.0, 2.0]) == "█▁▅"
    assert len(set(sparkline([2.0, 2.0]))) == 1
