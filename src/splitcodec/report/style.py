"""The look of all figures: one colour and one marker a method, everywhere.

Okabe and Ito's palette comes first, which colour-blind readers can tell apart. Sizes are in inches,
the text is 8 points at any width, and the bytes of a file depend on the data only.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from splitcodec.files import atomic_path
from splitcodec.report.curves import curve_name, name_order

WIDTH = 5.5
"""Inches: the text column of a one-column paper."""
INK, FAINT, PAPER = "#22262b", "#8a9099", "#ffffff"

PARAMETERS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "svg.hashsalt": "splitcodec",
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)
_METADATA = {
    "svg": {"Date": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None},
}
FORMATS = tuple(_METADATA)


class Style(NamedTuple):
    """Colour, marker and line of a method."""

    colour: str
    marker: str
    line: str


_LEARNED = [
    Style("#0072B2", "o", "-"),
    Style("#D55E00", "s", "-"),
    Style("#CC79A7", "D", "-"),
    Style("#009E73", "P", "-"),
    Style("#56B4E9", "X", "-"),
    Style("#882255", "v", "-"),
    Style("#44AA99", "<", "-"),
    Style("#332288", ">", "-"),
    Style("#999933", "p", "-"),
    Style("#AA4499", "h", "-"),
]
_BASELINES = {
    "int + zstd": Style("#E69F00", "^", "--"),
    "int + deflate": Style("#A8791B", "v", "--"),
    "int + raw": Style("#7F8791", "<", "--"),
    "fp16 + zstd": Style("#E69F00", "2", ""),
    "fp16 + deflate": Style("#A8791B", "1", ""),
    "fp16 + raw": Style("#7F8791", "+", ""),
    "JPEG": Style("#5A4A3F", "x", ":"),
    "WebP": Style("#A65E4E", "3", ":"),
}
STROKES = "123+x"
"""Markers without an inside."""


def styles_of(points: pd.DataFrame) -> dict[str, Style]:
    """The look of every curve of an experiment, the same in all its figures."""
    names = {curve_name(*pair) for pair in zip(points["codec"], points["coder"], strict=True)}
    learned = sorted(names - _BASELINES.keys(), key=name_order)
    return _BASELINES | dict(zip(learned, itertools.cycle(_LEARNED)))


def new_figure(
    height: float, columns: int = 1, width: float = WIDTH, **options: Any
) -> tuple[Figure, Any]:
    """A figure of `width` by `height` inches, and its axes; call within `PARAMETERS`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, **options)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `figure` as SVG and PNG beside `stem`; the same figure gives the same bytes."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    for path in paths:
        save_as(figure, path)
    return paths


def save_as(figure: Figure, path: Path) -> None:
    """Write `figure` in the format of the path's suffix, one of `FORMATS`."""
    suffix = path.suffix[1:]
    with mpl.rc_context(PARAMETERS), atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix, metadata=_METADATA[suffix])


def plain_logarithm(axes: Axes) -> None:
    """Plain numbers along a logarithmic x axis, at 1, 2 and 5 where it spans little."""
    low, high = axes.get_xlim()
    steps = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
