"""Curves on the terminal: all of an experiment, one codec's card, or two curves side by side."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from splitcodec.errors import InputError, SettingsError
from splitcodec.report.cards import card_of, markdown
from splitcodec.report.curves import ANCHOR, Curve, bd_rate, compare, curves_of, rate_at_level
from splitcodec.report.table import perplexity_increase, read_points
from splitcodec.report.terms import LEVELS, TEXT, all_terms

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 100
_LEAST = 1e-5
"""Nats below which divergence is no more than rounding."""


def print_curves(results: Path, console: Console | None = None) -> None:
    """One line a curve: rates, perplexity's increase, BD-rate, and the curve as a sparkline."""
    console = console or _console()
    points = read_points(results / "points.parquet")
    kinds = all_terms(points)
    rate = "bits/" + " or ".join(terms.unit for terms in kinds)
    loss = " or ".join("Δ perplexity" if terms is TEXT else "divergence" for terms in kinds)
    table = _table("model", "split", "curve", "points", rate, loss, "BD-rate", "")
    for item in compare(points):
        mean = item.curve.mean
        rates, rises = mean[item.curve.rate], perplexity_increase(mean)
        text = item.curve.terms is TEXT
        table.add_row(
            item.curve.model,
            str(item.curve.split),
            item.curve.name,
            str(len(item.curve.points)),
            _span(rates, ",.0f"),
            f"{_span(rises, '+.1f')} %" if text else f"{_span(mean['kl'], '.2g')} nats",
            "" if item.bd is None else f"{item.bd.percent:+.1f} %",
            sparkline(np.log(mean["kl"].clip(lower=_LEAST))),
        )
    console.print(table)
    console.print(f"BD-rate against {ANCHOR}; the last column: log KL, from few bits to many.")


def sparkline(values: np.ndarray | pd.Series) -> str:
    """A bar a value, the highest as high as there is."""
    values = np.asarray(values, float)
    spread = np.ptp(values) or 1.0
    steps = np.round((values - values.min()) / spread * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[step] for step in steps)


def print_card(directory: Path, console: Console | None = None) -> None:
    """The card of the codec in results/<experiment>/codecs/<model>/split<k>/<codec>/<variant>."""
    console = console or _console()
    path = directory / "codec.json"
    if not path.is_file():
        raise InputError(f"{directory} holds no codec (no codec.json); name its directory")
    if len(path.resolve().parents) < 6:
        raise InputError(
            f"{directory} lies in no results/<experiment>, whose table of points its card needs"
        )
    points = read_points(path.resolve().parents[5] / "points.parquet")
    console.print(Markdown(markdown(card_of(path, points))))


def print_comparison(results: Path, test: str, anchor: str, console: Console | None = None) -> None:
    """Rates of two curves at equal perplexity, and BD-rate, at every split that has both."""
    console = console or _console()
    curves = curves_of(read_points(results / "points.parquet"))
    names = dict.fromkeys(curve.name for curve in curves)
    for name in (test, anchor):
        if name not in names:
            raise SettingsError(f"no curve {name!r}; there are {', '.join(names)}")
    for one in (curve for curve in curves if curve.name == test):
        for other in curves:
            if (other.model, other.split, other.name) == (one.model, one.split, anchor):
                _print_pair(console, one, other)


def _print_pair(console: Console, test: Curve, anchor: Curve) -> None:
    terms = test.terms
    table = _table("at", test.name, anchor.name, "ratio")
    table.title = f"{test.model}, split {test.split}: bits per {terms.unit}"
    for level in LEVELS:
        rates = [rate_at_level(curve, level) for curve in (test, anchor)]
        cells = ["–" if rate is None else f"{rate:,.0f}" for rate in rates]
        ratio = "–" if None in rates else f"{rates[0] / rates[1]:.3f}"
        table.add_row(terms.level(level), *cells, ratio)
    console.print(table)
    found = bd_rate(anchor, test)
    if found is None:
        console.print("no BD-rate: the curves do not overlap, or have fewer than three points\n")
        return
    low, high = (terms.value(end, test.uncoded) for end in (found.low, found.high))
    style = ".2f" if terms is TEXT else ".3g"
    ends = f"{low:{style}} to {high:{style}}"
    console.print(f"BD-rate {found.percent:+.1f} %, {terms.quality} {ends}\n")


def _span(values: pd.Series, style: str) -> str:
    low, high = (format(value, style) for value in (values.min(), values.max()))
    return low if low == high else f"{low} – {high}"


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left")
    for heading in headings:
        left = heading in ("model", "curve", "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    return table
