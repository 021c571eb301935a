"""What the report page's script draws: curves, their looks, reference lines, as plain data.

Numbers keep five or six significant digits; the page is for reading, the table of points for more.
"""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from splitcodec.report.curves import Curve, curves_of, rate_at_level
from splitcodec.report.metrics import Metric, metrics_of
from splitcodec.report.pictures import NAMES
from splitcodec.report.possible import coding_ms, rate_distortion_band
from splitcodec.report.style import Style, styles_of
from splitcodec.report.terms import LEVELS, all_terms, reference_lines

PICTURES = set(NAMES.values())


def page_data(
    points: pd.DataFrame,
    references: list[dict[str, Any]],
    bounds: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    pictures: dict[str, list[Curve]],
) -> Markup:
    """All of it as JSON that may stand in a <script> element; `pictures` by model."""
    styles = styles_of(points)
    metrics = {model: metrics_of(rows) for model, rows in points.groupby("model")}
    by_model = {item["model"]: item for item in references}
    curves = curves_of(points)
    places = list(dict.fromkeys((curve.model, curve.split) for curve in curves))
    named = {metric.name: metric for own in metrics.values() for metric in own}
    found = {
        "metrics": [_metric(metric) for metric in named.values()],
        "places": [
            _place(
                [curve for curve in curves if (curve.model, curve.split) == (model, split)]
                + pictures.get(model, []),
                metrics[model],
                styles,
                by_model.get(model),
                next((b for b in bounds if (b["model"], b["split"]) == (model, split)), {}),
            )
            for model, split in places
        ],
        "levels": [
            {"loss": level, "said": " or ".join(terms.level(level) for terms in all_terms(points))}
            for level in LEVELS
        ],
        "splits": [_by_split(model, curves, pictures.get(model, []), styles) for model in metrics],
        "examples": [_example(item, styles) for item in examples],
    }
    text = json.dumps(_short(found), ensure_ascii=False, allow_nan=False)
    # So that no text in it can end the element; it came through json.dumps.
    return Markup(text.replace("<", "\\u003c"))


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "label": metric.label,
        "logarithmic": metric.logarithmic,
        "higher": metric.higher_is_better,
        "digits": metric.digits,
    }


def _place(
    curves: list[Curve],
    metrics: list[Metric],
    styles: dict[str, Style],
    references: dict[str, Any] | None,
    bounds: dict[str, Any],
) -> dict[str, Any]:
    """One model at one split; `curves` begin with a codec's."""
    nats, lines = curves[0].uncoded, reference_lines(references) if references else {}
    return {
        "model": curves[0].model,
        "split": curves[0].split,
        "unit": curves[0].terms.unit,
        "metrics": [_metric(metric) for metric in metrics],
        "uncoded": {metric.name: metric.uncoded(nats) for metric in metrics},
        "limits": {metric.name: metric.limit(nats) for metric in metrics},
        "references": [{"label": label, "x": bits} for label, bits in lines.items()],
        "band": rate_distortion_band(bounds.get("rate_distortion", []), curves[0]),
        "curves": [_curve(curve, metrics, styles[curve.name]) for curve in curves],
    }


def _curve(curve: Curve, metrics: list[Metric], style: Style) -> dict[str, Any]:
    front = curve.front
    return {
        **_look(curve.name, style),
        "rates": front[curve.rate].tolist(),
        "line": {metric.name: metric.values(front).tolist() for metric in metrics},
        "points": [_point(curve, row, metrics) for _, row in curve.points.iterrows()],
    }


def _look(name: str, style: Style) -> dict[str, str]:
    return {"name": name, "colour": style.colour, "marker": style.marker, "stroke": style.line}


def _point(curve: Curve, row: pd.Series, metrics: list[Metric]) -> dict[str, Any]:
    rows = row.to_frame().T
    values = {}
    for metric in metrics:
        ends = metric.interval(rows) or ()
        values[metric.name] = [float(v[0]) for v in (metric.values(rows), *ends)]
    found = {
        "name": point_name(row),
        "seed": None if pd.isna(row["seed"]) else int(row["seed"]),
        "rate": row[curve.rate],
        "loss": row["cross_entropy"] - row["cross_entropy_uncoded"],
        "ms": coding_ms(row) * curve.tokens_a_unit,
        "values": values,
    }
    # The whole model stands behind a picture; only what a codec made has a file in the results.
    return found if curve.name in PICTURES else found | {"file": bitstream_of(row)}


def point_name(row: Any) -> str:
    """A point's codec with its λ, for people."""
    return row["codec"] + ("" if pd.isna(row["lambda"]) else f" λ={row['lambda']:g}")


def variant_of(row: Any) -> str:
    """The last part of a point's place, as the workflow names it: `fixed`, `lambda…-seed…`."""
    if pd.isna(row["seed"]):
        return "fixed"
    weight = "" if pd.isna(row["lambda"]) else f"lambda{row['lambda']:g}-"
    return f"{weight}seed{int(row['seed'])}"


def bitstream_of(row: Any) -> str:
    """Where the file of a point lies below results/<experiment>."""
    place = f"{row['model']}/split{row['split']}/{row['codec']}/{variant_of(row)}"
    return f"bitstreams/{place}/{row['coder']}.rdc"


def _by_split(
    model: str, curves: list[Curve], pictures: list[Curve], styles: dict[str, Style]
) -> dict[str, Any]:
    """Rates of each curve at each split, at each of the levels; None where not measured."""
    mine = [curve for curve in curves if curve.model == model]
    names = dict.fromkeys(curve.name for curve in mine)
    return {
        "model": model,
        "unit": mine[0].terms.unit,
        "levels": [mine[0].terms.level(level) for level in LEVELS],
        "pictures": [
            _look(curve.name, styles[curve.name])
            | {"rates": [rate_at_level(curve, level) for level in LEVELS]}
            for curve in pictures
        ],
        "curves": [
            _look(name, styles[name])
            | {
                "points": [
                    {
                        "split": curve.split,
                        "rates": [rate_at_level(curve, level) for level in LEVELS],
                    }
                    for curve in mine
                    if curve.name == name
                ]
            }
            for name in names
        ],
    }


def _example(item: dict[str, Any], styles: dict[str, Style]) -> dict[str, Any]:
    """The parts that are drawn; text stands in the page itself."""
    return {
        **_look(example_name(item), styles[item["codec"]]),
        "split": item["split"],
        "channels": item["channels"].get("latent", []),
        "positions": item["positions"],
    }


def example_name(item: dict[str, Any]) -> str:
    """What an examples file is of, for people."""
    return f"{point_name(item)}, split {item['split']}"


def _short(value: Any) -> Any:
    """Numbers with six significant digits; NaN and numpy's types as JSON has them."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
