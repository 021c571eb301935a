"""Every curve of an experiment against the closed form: `python benchmarks/frontier.py RESULTS`.

For each split and curve: BD-rate against `klt` and against the integers with Zstandard (negative is
cheaper; seeds apart, as mean and spread), the rate at which perplexity rises by 1 %, and the share
of the bits of int4-groups-of-32 + Zstandard's curve at perplexities 2 to 10 % above uncoded.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from splitcodec.report.curves import ANCHOR, Curve, bd_rate, curves_of, rate_at
from splitcodec.report.table import read_points

CLOSED_FORM = "klt"
RISES = (1.02, 1.04, 1.06, 1.08, 1.10)


def main(results: Annotated[Path, typer.Argument(help="results/<experiment>")]) -> None:
    """Print one row a split and curve."""
    points = read_points(results / "points.parquet")
    uncoded = {row.model: row.cross_entropy_uncoded for row in points.itertuples()}
    table = Table(title=f"{results.name}: files of {points['tokens'].max():,} tokens")
    for name in ("split", "curve", "BD vs klt, %", "BD vs int + zstd, %", "bits at +1 %", "share"):
        table.add_column(name, justify="left" if name == "curve" else "right")
    curves = curves_of(points)
    for curve in curves:
        near = {c.name: c for c in curves if (c.model, c.split) == (curve.model, curve.split)}
        start = uncoded[curve.model]
        table.add_row(
            str(curve.split),
            curve.name,
            against(near.get(CLOSED_FORM), curve),
            against(near.get(ANCHOR), curve),
            written(rate_at(curve, start + math.log(1.01)), ",.0f"),
            shares(near.get(ANCHOR), curve, start),
        )
    Console(width=120).print(table)


def seeds_of(curve: Curve) -> list[Curve]:
    """One curve a seed."""
    groups = curve.points.groupby("seed", dropna=False)
    return [Curve(curve.model, curve.split, curve.name, rows) for _, rows in groups]


def against(anchor: Curve | None, curve: Curve) -> str:
    """BD-rate in percent, mean over seeds and half their range."""
    if anchor is None or anchor.name == curve.name:
        return ""
    found = [bd_rate(anchor, one) for one in seeds_of(curve)]
    values = [bd.percent for bd in found if bd is not None]
    if not values:
        return "no overlap"
    spread = f" ± {np.ptp(values) / 2:.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.1f}{spread}"


def shares(anchor: Curve | None, curve: Curve, uncoded: float) -> str:
    """Least and largest share of the anchor's bits over RISES, where both curves are known."""
    if anchor is None or anchor.name == curve.name:
        return ""
    pairs = [[rate_at(c, uncoded + math.log(rise)) for c in (curve, anchor)] for rise in RISES]
    ratios = [own / other for own, other in known(pairs)]
    return f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else "no overlap"


def known(pairs: Iterable[list[float | None]]) -> list[list[float]]:
    """Those pairs of which both are known."""
    return [pair for pair in pairs if None not in pair]


def written(value: float | None, form: str) -> str:
    """A number, or that the curve does not reach it."""
    return "not reached" if value is None else format(value, form)


if __name__ == "__main__":
    typer.run(main)
