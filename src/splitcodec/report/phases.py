"""The workflow as a small graph: its phases, and how much each of them made."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Phase:
    """A box of the graph: where it stands (column, row), and how many things it made."""

    name: str
    made: str
    column: int
    row: int


def phases(points: pd.DataFrame, bounds: int) -> list[Phase]:
    """The phases in the order of the workflow; rules of each are in workflow/rules."""
    models, splits = points["model"].nunique(), len(points.groupby(["model", "split"]))
    codecs = points["codec_hash"].nunique()
    return [
        Phase("inputs", _many(models, "model"), 0, 0),
        Phase("activations", _many(splits, "split"), 1, 0),
        Phase("codecs", _many(codecs, "codec"), 2, 0),
        Phase("bitstreams", _many(len(points), "file"), 3, 0),
        Phase("evaluation", _many(len(points), "point"), 4, 0),
        Phase("report", "table, figures, page", 5, 0),
        Phase("bounds", _many(bounds, "split"), 3, 1),
    ]


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"
