"""Every curve against the closed form: `python benchmarks/frontier.py RESULTS`.

It reads evaluation files alone, so a run need not be finished. Several RESULTS that evaluated the
same text may be named: a codec that is in two of them counts as in the last. For each model, split
and curve, means over seeds: bits and perplexity of every λ; BD-rate against `klt` (negative is
cheaper) with a 95 % interval over documents, and of each seed alone; the rates at which perplexity
rises by 1 % and divergence is 0.05 nats; and the share of the bits of int + Zstandard at
perplexities 2, 4, 6 and 10 % above uncoded.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from splitcodec.files import read_json
from splitcodec.report.curves import ANCHOR, Curve, bd_rate, curves_of, rate_at, rate_at_divergence
from splitcodec.report.matrix import Cell, matrices, read_documents

RISES = (0.02, 0.04, 0.06, 0.10)


def main(
    results: Annotated[list[Path], typer.Argument(help="results/<experiment>; several are joined")],
    against: Annotated[str, typer.Option(help="the curve that BD-rates are against")] = "klt",
) -> None:
    """Print the points, then one row a curve."""
    files = evaluations(results)
    points = points_of(files)
    console = Console(width=185)
    console.print(table_of_points(points))
    console.print(table_of_curves(points, files, against))


def evaluations(results: list[Path]) -> list[Path]:
    """Evaluation files; of a model, split and codec those of the last directory that has any."""
    found = {}
    for directory in results:
        for place in sorted(directory.glob("evaluation/*/*/*")):
            found[place.parts[-3:]] = sorted(place.glob("*.json"))
    return [file for files in found.values() for file in files]


def points_of(files: list[Path]) -> pd.DataFrame:
    """A row a point, as in the table of points, without what other steps measure."""
    rows = [point for file in files for point in read_json(file)["points"]]
    table = pd.DataFrame(rows).drop(columns="by_document", errors="ignore")
    return table.reindex(columns=[*table.columns, "feature_error"]).sort_values(["model", "split"])


def table_of_points(points: pd.DataFrame) -> Table:
    """Bits and perplexity by λ, means over seeds, and the most that file and estimate differ by."""
    table = Table("model", "split", "curve", title=f"files of {points['tokens'].max():,} tokens")
    for name in ("λ: bits, perplexity", "file and estimate differ by, at most"):
        table.add_column(name)
    coded = points[points["coder"] == "ans"]
    for (model, split, codec), rows in coded.groupby(["model", "split", "codec"]):
        said = [
            f"{weight:g}: {group['bits_per_token_file'].mean():,.0f}, {rise(group):+.1f} %"
            for weight, group in rows.groupby("lambda")
        ]
        excess = (rows["bits_per_token_file"] / rows["bits_per_token_estimated"] - 1).abs().max()
        table.add_row(model, str(split), codec, " · ".join(said), f"{excess:.2%}")
    return table


def rise(points: pd.DataFrame) -> float:
    """Of perplexity over the uncoded model, in percent."""
    return 100 * math.expm1((points["cross_entropy"] - points["cross_entropy_uncoded"]).mean())


def table_of_curves(points: pd.DataFrame, files: list[Path], against: str) -> Table:
    """One row a model, split and curve."""
    table = Table("model", "split", "curve")
    shares = "share of int + zstd at " + ", ".join(f"{rise:+.0%}" for rise in RISES)
    for name in (
        f"BD-rate vs {against}, %",
        "of seeds",
        "bits at +1 %",
        "at 0.05 nats",
        shares,
    ):
        table.add_column(name)
    cells = {(m.model, m.split): m.cells for m in matrices(points, read_documents(files))}
    for (model, split), rows in points.groupby(["model", "split"]):
        curves = {curve.name: curve for curve in curves_of(rows)}
        for name, curve in curves.items():
            table.add_row(
                model,
                str(split),
                name,
                written(cells.get((model, split), {}).get((name, against))),
                ", ".join(seeds_against(curves.get(against), curve)),
                bits_at(curve, 0.01),
                counted(rate_at_divergence(curve, 0.05)),
                ", ".join(share(curve, curves.get(ANCHOR), rise) for rise in RISES),
            )
    return table


def written(cell: Cell | None) -> str:
    """A BD-rate with its interval."""
    if cell is None:
        return ""
    interval = "" if cell.low is None else f" ({cell.low:+.1f} to {cell.high:+.1f})"
    return f"{cell.percent:+.1f}{interval}"


def seeds_against(anchor: Curve | None, curve: Curve) -> list[str]:
    """BD-rate of each seed, where there are several, against the anchor's same seed or its mean."""
    if anchor is None or anchor.name == curve.name or curve.points["seed"].nunique() < 2:
        return []
    own = anchor.points.groupby("seed").groups
    found = []
    for seed, rows in curve.points.groupby("seed"):
        same = anchor.points.loc[own[seed]] if len(own) > 1 and seed in own else anchor.points
        one, other = (Curve(curve.model, curve.split, "", part) for part in (same, rows))
        found.append(bd_rate(one, other))
    return [f"{bd.percent:+.1f}" for bd in found if bd is not None]


def bits_at(curve: Curve, rise: float) -> str:
    """Bits a token where perplexity has risen by so much."""
    return counted(rate_at(curve, uncoded(curve) + math.log1p(rise)))


def counted(bits: float | None) -> str:
    """Bits a token, where a curve was measured on both sides of a quality."""
    return "not reached" if bits is None else f"{bits:,.0f}"


def share(curve: Curve, anchor: Curve | None, rise: float) -> str:
    """Of the anchor's bits at the same perplexity."""
    level = uncoded(curve) + math.log1p(rise)
    own, other = rate_at(curve, level), None if anchor is None else rate_at(anchor, level)
    return f"{own / other:.2f}" if own and other else "–"


def uncoded(curve: Curve) -> float:
    """Cross-entropy of the uncoded model in nats."""
    return float(np.mean(curve.points["cross_entropy_uncoded"]))


if __name__ == "__main__":
    typer.run(main)
