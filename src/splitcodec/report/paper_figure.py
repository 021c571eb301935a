"""One figure of an experiment at the width and in the format that a paper asks for."""

from pathlib import Path
from typing import Any

from splitcodec.errors import SettingsError
from splitcodec.report.bounds_figure import bounds_by_rate
from splitcodec.report.figures import rate_by_split, time_per_token
from splitcodec.report.measured import read_bounds, read_references
from splitcodec.report.metrics import metric_named
from splitcodec.report.pictures import read_pictures
from splitcodec.report.rd_figure import rd_curve
from splitcodec.report.style import FORMATS, save_as
from splitcodec.report.table import read_points


def draw_figure(
    kind: str,
    results: Path,
    out: Path,
    model: str | None,
    split: int | None,
    metric: str | None,
    width: float,
) -> None:
    """Draw `kind` (rd, rate-by-split, time or bounds) from the artefacts below `results`.

    `width` in inches. Raises SettingsError for what the experiment does not have.
    """
    if out.suffix[1:] not in FORMATS:
        raise SettingsError(f"{out} is no {', '.join(f'.{name}' for name in FORMATS)} file")
    points = read_points(results / "points.parquet")
    model = _one_of("model", model, sorted(points["model"].unique()))
    mine = points[points["model"] == model]
    path = results / f"references/{model}.json"
    references = read_references([path])[0] if path.is_file() else None
    path = results / f"pictures/{model}.json"
    pictures = read_pictures([path]).get(model, []) if path.is_file() else []
    bounds = read_bounds(sorted((results / "bounds" / model).glob("*.json")))
    if kind == "rd":
        split = _one_of("split", split, sorted(int(k) for k in mine["split"].unique()))
        own = next((item for item in bounds if item["split"] == split), None)
        chosen = metric_named(mine, metric)
        figure = rd_curve(points, model, split, references, chosen, own, width, pictures)
    elif kind == "rate-by-split":
        figure = rate_by_split(points, model, bounds, references, pictures, width)
    elif kind == "time":
        figure = time_per_token(points, model, width)
    else:
        if not bounds:
            raise SettingsError(f"no bounds of {model}; let the experiment measure them")
        figure = bounds_by_rate(points, model, bounds, width)
    save_as(figure, out)


def _one_of(what: str, wanted: Any, known: list[Any]) -> Any:
    """`wanted`, or the only one there is."""
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        said = ", ".join(map(str, known))
        raise SettingsError(
            f"give --{what}: there are {said}"
            if wanted is None
            else f"no {what} {wanted}; there are {said}"
        )
    return wanted
