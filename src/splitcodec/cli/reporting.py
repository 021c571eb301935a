"""Tables, figures, pages and MLflow."""

import json
from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import Files, Out, app
from splitcodec.settings import Settings

NoFiles = Annotated[list[Path], typer.Option(help="of models that read text")]


@app.command()
def collect(
    experiment: Annotated[str, typer.Option()],
    evaluation: Files,
    codec: Annotated[list[Path], typer.Option(help="codec.json files")],
    latency: Files,
    csv: Annotated[Path, typer.Option(help="table to write")],
    parquet: Annotated[Path, typer.Option(help="the same table, typed")],
    metrics: Annotated[Path, typer.Option(help="rate and quality of each point, as JSON")],
    git_commit: Annotated[str, typer.Option(help="of the code that made the points")] = "unknown",
) -> None:
    """Join all points of an experiment into one table."""
    from splitcodec.report.table import collect, write_metrics

    collect(experiment, evaluation, codec, latency, git_commit, csv, parquet)
    write_metrics(parquet, metrics)


@app.command()
def figures(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    bounds: Files,
    out: Annotated[Path, typer.Option(help="directory")],
    references: NoFiles = [],  # noqa: B006
) -> None:
    """Draw every figure of an experiment as SVG and PNG."""
    from splitcodec.report.bounds_figure import draw_bounds
    from splitcodec.report.figures import draw

    draw(points, references, bounds, out)
    draw_bounds(points, bounds, out)


@app.command()
def report(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    figure: Files,
    bounds: Files,
    codec: Annotated[list[Path], typer.Option(help="codec.json files")],
    out: Out,
    references: NoFiles = [],  # noqa: B006
) -> None:
    """Write the self-contained report page."""
    from splitcodec.report.page import write_report

    write_report(points, figure, references, bounds, codec, out)


tracking = typer.Typer(no_args_is_help=True, help="MLflow's view of an experiment.")
app.add_typer(tracking, name="track")


@tracking.command()
def sync(
    results: Annotated[Path, typer.Argument(help="results/<experiment>")],
    uri: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI")] = None,
    later: Annotated[
        bool, typer.Option("--later", help="where MLflow is down, say so and succeed")
    ] = False,
) -> None:
    """Make MLflow show the results, whatever it shows now; a second call changes nothing."""
    from splitcodec.tracking import sync

    sync(results, uri, later)


@app.command()
def summary(results: Annotated[Path, typer.Argument(help="results/<experiment>")]) -> None:
    """Print the table of points and where everything lies."""
    from splitcodec.report.summary import print_summary

    print_summary(results)


@app.command()
def schema() -> None:
    """Print the JSON schema of params files."""
    print(json.dumps(Settings.model_json_schema(), indent=2, ensure_ascii=False))
