"""How well rates are interpolated: `python benchmarks/interpolation.py results/*/points.parquet`.

Of every curve of four Pareto-optimal points or more each inner one is left out in turn, and its
rate is read off the curve through the others at its cross-entropy: on the scale of the report,
logarithmic in the loss, and on that of the cross-entropy. The gaps are twice those of the report.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.interpolate import PchipInterpolator

from splitcodec.report.curves import Curve, curves_of, scaled
from splitcodec.report.table import read_points

SCALES = {"logarithm of the loss": scaled, "cross-entropy": lambda losses: losses}


def main(
    tables: Annotated[list[Path], typer.Argument(help="points.parquet of experiments")],
) -> None:
    """Print one row a scale."""
    curves = [curve for path in tables for curve in curves_of(read_points(path))]
    if all(len(curve.front) < 4 for curve in curves):
        raise typer.BadParameter("no curve has four Pareto-optimal points: name larger runs")
    table = Table("scale", "points", "mean error, %", "median size", "largest")
    for name, scale in SCALES.items():
        errors = 100 * np.expm1([error for curve in curves for error in left_out(curve, scale)])
        sizes = np.abs(errors)
        figures = (errors.mean(), np.median(sizes), sizes.max())
        table.add_row(name, str(len(errors)), *(f"{figure:.1f}" for figure in figures))
    Console().print(table)


def left_out(curve: Curve, scale: Callable[[np.ndarray], np.ndarray]) -> Iterator[float]:
    """ln(told / measured) of the rate of each inner point."""
    front = curve.front.iloc[::-1]
    at, rates = scale(curve.losses(front)), np.log(front[curve.rate].to_numpy())
    for i in range(1, len(front) - 1) if len(front) > 3 else ():
        others = np.arange(len(front)) != i
        yield float(PchipInterpolator(at[others], rates[others])(at[i])) - rates[i]


if __name__ == "__main__":
    typer.run(main)
