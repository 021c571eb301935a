"""Saved views of MLflow's runs page, so that it opens on rate-distortion charts.

A view is an experiment tag in the form that the page's own "Save view" writes (MLflow 3.17). A page
that does not know it opens as ever; nothing else depends on views.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

TAG = "mlflow.sharedViewState."
_RATE = "bits_per_token_file"
_COLUMNS = (
    _RATE,
    "perplexity",
    "perplexity_increase_percent",
    "top1_agreement",
    "decode_ms_per_token",
    "rate_ratio_to_int4_zstd",
    "bd_rate_percent_vs_int_zstd",
)
_SECTION = "rate-distortion"


@dataclass(frozen=True)
class _Kind:
    """What charts of a kind of models show: everything over the rate, of points not ruined."""

    rate: str
    charts: tuple[str, ...]
    bearable: str


_TEXT = _Kind(
    _RATE,
    ("perplexity", "kl", "top1_agreement", "decode_ms_per_token"),
    "metrics.perplexity_increase_percent < 100",
)
_PICTURES = _Kind(
    "bits_per_picture",
    ("kl", "accuracy", "feature_error", "top1_agreement", "decode_ms_per_token"),
    "metrics.kl < 1",
)


def views(places: Iterable[tuple[str, int]], pictured: Collection[str] = ()) -> dict[str, str]:
    """Experiment tags: a table of curves, and charts over the rate for each (model, split).

    `pictured`: those of the models that read images.
    """
    tags = {TAG + "curves": _view("Curves", "", _TEXT)}
    for model, split in places:
        kind = _PICTURES if model in pictured else _TEXT
        # The charts have linear axes only: fp16 and ruined points would squeeze all others.
        wanted = (
            f"tags.level = 'point' and params.model = '{model}' and params.split = '{split}' "
            f"and params.codec != 'fp16' and {kind.bearable}"
        )
        name = f"Rate and distortion, {model}, split {split}"
        tags[TAG + _key(model, split)] = _view(name, wanted, kind)
    return tags


def page(base: str, experiment: str, model: str, split: int) -> str:
    """Address of the charts of a split on the MLflow server at `base`."""
    view = f"viewStateShareKey={_key(model, split)}&workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs?{view}&compareRunsMode=CHART"


def _key(model: str, split: int) -> str:
    return f"{model}-split{split}"


def _chart(kind: str, name: str, **what: Any) -> dict[str, Any]:
    """A chart as the page describes it."""
    place = {"uuid": f"{_SECTION}-{name}", "metricSectionId": _SECTION}
    shown = {"isGenerated": False, "deleted": False, "runsCountToCompare": 100}
    return {"type": kind} | place | shown | what


def _charts(kind: _Kind) -> list[dict[str, Any]]:
    """Everything over the rate, and all figures of a point as one line."""
    rate = {"key": kind.rate, "type": "METRIC"}
    scatters = [
        _chart("SCATTER", str(number), xaxis=rate, yaxis={"key": metric, "type": "METRIC"})
        for number, metric in enumerate(kind.charts)
    ]
    axes = [kind.rate, *(metric for metric in kind.charts if metric != "kl")]
    chosen = {"selectedParams": ["codec"], "selectedMetrics": axes, "showAllRuns": True}
    return [*scatters, _chart("PARALLEL", "parallel", **chosen)]


def _view(name: str, wanted: str, kind: _Kind) -> str:
    section = {"uuid": _SECTION, "name": "Rate and distortion", "display": True}
    state = {
        "searchFilter": wanted,
        # In order of a metric the page lists points by themselves, in order of time in their curve.
        "orderByKey": f"metrics.`{kind.rate}`" if wanted else "attributes.start_time",
        "orderByAsc": bool(wanted),
        "selectedColumns": [f"metrics.`{column}`" for column in _COLUMNS],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(kind),
        "compareRunSections": [section | {"isReordered": False}],
    }
    # A fixed date: the same artefacts give the same tags.
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})
