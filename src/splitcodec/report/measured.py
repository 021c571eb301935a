"""What other steps measured of a model, as figures and page read it."""

from pathlib import Path
from typing import Any

from splitcodec.files import read_json


def read_references(paths: list[Path]) -> list[dict[str, Any]]:
    """What `splitcodec references` wrote, a model each; raises InputError for other files."""
    return [read_json(path, "model", "cross_entropy_uncoded") for path in paths]


def read_bounds(paths: list[Path]) -> list[dict[str, Any]]:
    """What `splitcodec bounds` wrote, a split each; raises InputError for other files."""
    return [read_json(path, "model", "split", "covariance") for path in paths]
