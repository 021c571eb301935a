"""Where to cut an image model: bits a picture at equal divergence, by split, against JPEG and WebP.

    python benchmarks/vision.py results/vision results/vision-encoder --figure build/vision.svg

Prints a Markdown table, a row a split, and draws the same numbers, a panel a model.
"""

from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import pandas as pd
import typer
from matplotlib.ticker import LogLocator, NullFormatter

from splitcodec.report.curves import ANCHOR, Curve, curves_of, rate_at_level
from splitcodec.report.pictures import read_pictures
from splitcodec.report.style import PARAMETERS, WIDTH, new_figure, save_as, styles_of
from splitcodec.report.table import read_points

CODEC = "klt"


def main(
    results: Annotated[list[Path], typer.Argument(help="results of experiments on images")],
    level: Annotated[float, typer.Option(min=0, help="divergence in nats")] = 0.05,
    figure: Annotated[Path | None, typer.Option(help="SVG, PNG or PDF to draw")] = None,
) -> None:
    """Print the table, and draw the figure if one is named."""
    panels = [panel for directory in results for panel in panels_of(directory)]
    print(f"| model | split | tokens | {CODEC} | {ANCHOR} | ratio | JPEG | WebP |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for curves, pictures, _ in panels:
        for split in sorted({curve.split for curve in curves}):
            print(row(curves, pictures, split, level))
    if figure:
        draw(panels, level, figure)


Panel = tuple[list[Curve], list[Curve], pd.DataFrame]


def panels_of(results: Path) -> list[Panel]:
    """Of each model its curves, those of pictures, and the table that styles are made from."""
    points = read_points(results / "points.parquet")
    pictures = read_pictures(sorted((results / "pictures").glob("*.json")))
    curves = curves_of(points)
    return [
        ([c for c in curves if c.model == model and c.name in (CODEC, ANCHOR)], own, points)
        for model, own in pictures.items()
    ]


def row(curves: list[Curve], pictures: list[Curve], split: int, level: float) -> str:
    """Rates in thousand bits a picture; of files too, which are the same at every split."""
    own = {curve.name: curve for curve in curves if curve.split == split}
    rates = {name: rate_at_level(curve, level) for name, curve in own.items()}
    rates |= {curve.name: rate_at_level(curve, level) for curve in pictures}
    said = {name: "–" if rate is None else f"{rate / 1000:,.1f}" for name, rate in rates.items()}
    ours, integers = rates.get(CODEC), rates.get(ANCHOR)
    ratio = f"{ours / integers:.2f}" if ours and integers else "–"
    first = own[CODEC]
    cells = [first.model, split, f"{first.tokens_a_unit:.0f}", said[CODEC], said[ANCHOR], ratio]
    cells += [said.get(name, "–") for name in ("JPEG", "WebP")]
    return "| " + " | ".join(map(str, cells)) + " |"


def draw(panels: list[Panel], level: float, path: Path) -> None:
    """Rate by split, logarithmic; lines for what files cost at the same divergence."""
    with mpl.rc_context(PARAMETERS):
        figure, axes = new_figure(2.6, len(panels), WIDTH, squeeze=False, sharey=True)
        for place, (curves, pictures, points) in zip(axes[0], panels, strict=True):
            styles = styles_of(points)
            for name in (CODEC, ANCHOR):
                rates = {c.split: rate_at_level(c, level) for c in curves if c.name == name}
                known = {split: rate for split, rate in rates.items() if rate}
                style = styles[name]
                look = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
                place.plot(list(known), list(known.values()), label=name, **look)
            for curve in pictures:
                if rate := rate_at_level(curve, level):
                    style = styles[curve.name]
                    look = {"color": style.colour, "linestyle": style.line, "linewidth": 1.2}
                    place.axhline(rate, label=curve.name, **look)
            place.set(yscale="log", xlabel="split (blocks before it)")
            place.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            place.yaxis.set_major_formatter("{x:,.0f}")
            place.yaxis.set_minor_formatter(NullFormatter())
            place.set_xticks(sorted({curve.split for curve in curves}))
            place.set_title(curves[0].model, loc="left")
        axes[0][0].set_ylabel(f"bits per picture\nat {level:g} nats of divergence")
        named = dict(
            pair[::-1]
            for place in axes[0]
            for pair in zip(*place.get_legend_handles_labels(), strict=True)
        )
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4)
    save_as(figure, path)


if __name__ == "__main__":
    typer.run(main)
