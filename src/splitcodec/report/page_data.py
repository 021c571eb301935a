"""What the report page's script draws: curves, their looks, reference lines, as plain data.

Numbers keep five or six significant digits; the page is for reading, the table of points for more.
"""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from splitcodec.codecs.catalogue import is_baseline
from splitcodec.report.curves import Curve, curves_of, rate_at
from splitcodec.report.metrics import Metric, metrics_of
from splitcodec.report.style import Style, styles_of
from splitcodec.report.table import perplexity_increase

INCREASES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Relative increases of perplexity at which splits are compared."""
_TIMES = ("encode_ms_per_token", "decode_ms_per_token")


def page_data(
    points: pd.DataFrame,
    references: list[dict[str, Any]],
    bounds: list[dict[str, Any]],
    examples: list[dict[str, Any]],
) -> Markup:
    """All of it as JSON that may stand in a <script> element."""
    table = points.assign(increase=perplexity_increase(points))
    styles, metrics = styles_of(points), metrics_of(points)
    by_model = {item["model"]: item for item in references}
    curves = curves_of(table)
    places = list(dict.fromkeys((curve.model, curve.split) for curve in curves))
    found = {
        "metrics": [_metric(metric) for metric in metrics],
        "places": [
            _place(
                [curve for curve in curves if (curve.model, curve.split) == place],
                metrics,
                styles,
                by_model.get(place[0]),
                next((b for b in bounds if (b["model"], b["split"]) == place), {}),
            )
            for place in places
        ],
        "increases": INCREASES,
        "splits": [_by_split(model, curves, styles) for model in table["model"].unique()],
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
    nats = float(curves[0].points["cross_entropy_uncoded"].iloc[0])
    lines = {}
    if references:
        lines = {
            "token ids": references["token_ids_bits_per_token"],
            "token ids, unigram": references["unigram_bits_per_token"],
            "token ids, model's entropy": references["model_bits_per_token"],
        }
    return {
        "model": curves[0].model,
        "split": curves[0].split,
        "uncoded": {metric.name: metric.uncoded(nats) for metric in metrics},
        "limits": {metric.name: metric.limit(nats) for metric in metrics},
        "references": [{"label": label, "x": bits} for label, bits in lines.items()],
        "band": [
            [item[f"{name}_bits_per_token"] for name in ("shannon", "gaussian")]
            + [item["distortion"]]
            for item in bounds.get("rate_distortion", [])
        ],
        "curves": [_curve(curve, metrics, styles[curve.name]) for curve in curves],
    }


def _curve(curve: Curve, metrics: list[Metric], style: Style) -> dict[str, Any]:
    front = curve.front
    return {
        **_look(curve.name, style),
        "learned": not is_baseline(curve.points["codec"].iloc[0]),
        "rates": front["bits_per_token_file"].tolist(),
        "line": {metric.name: metric.values(front).tolist() for metric in metrics},
        "points": [_point(row, metrics) for _, row in curve.points.iterrows()],
    }


def _look(name: str, style: Style) -> dict[str, str]:
    return {"name": name, "colour": style.colour, "marker": style.marker, "stroke": style.line}


def _point(row: pd.Series, metrics: list[Metric]) -> dict[str, Any]:
    rows = row.to_frame().T
    values = {}
    for metric in metrics:
        ends = metric.interval(rows) or ()
        values[metric.name] = [float(v[0]) for v in (metric.values(rows), *ends)]
    return {
        "name": point_name(row),
        "seed": None if pd.isna(row["seed"]) else int(row["seed"]),
        "rate": row["bits_per_token_file"],
        "payload": row["bits_per_token_payload"],
        "estimated": row["bits_per_token_estimated"],
        "increase": row["increase"],
        "ms": sum(row[name] for name in _TIMES),
        "file": bitstream_of(row),
        "values": values,
    }


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


def _by_split(model: str, curves: list[Curve], styles: dict[str, Style]) -> dict[str, Any]:
    """Rates of each curve at each split, at each of the increases; None where not measured."""
    mine = [curve for curve in curves if curve.model == model]
    names = dict.fromkeys(curve.name for curve in mine)
    return {
        "model": model,
        "curves": [
            _look(name, styles[name])
            | {
                "points": [
                    {"split": curve.split, "rates": [_rate(curve, rise) for rise in INCREASES]}
                    for curve in mine
                    if curve.name == name
                ]
            }
            for name in names
        ],
    }


def _rate(curve: Curve, increase: float) -> float | None:
    uncoded = curve.points["cross_entropy_uncoded"].iloc[0]
    return rate_at(curve, uncoded + math.log1p(increase))


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
