"""Tables, figures, pages and MLflow."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    Dtype,
    DtypeOption,
    Files,
    ModelDirectory,
    Out,
    app,
    check_outs,
    load_model,
)
from splitcodec.errors import SettingsError
from splitcodec.settings import Settings

Results = Annotated[Path, typer.Argument(help="results/<experiment>")]


class Figure(StrEnum):
    """What a figure shows."""

    rd = "rd"
    rate_by_split = "rate-by-split"
    time = "time"
    bounds = "bounds"


NoFiles = Annotated[list[Path], typer.Option(help="of models that read text")]
Pictures = Annotated[list[Path], typer.Option(help="of image models, made by pictures")]


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
    task: Annotated[list[Path], typer.Option(help="JSON files made by task")] = [],
) -> None:
    """Join all points of an experiment into one table."""
    from splitcodec.report.table import collect, write_metrics

    collect(experiment, evaluation, codec, latency, git_commit, csv, parquet, task)
    write_metrics(parquet, metrics)


@app.command()
def figures(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    bounds: Files,
    out: Annotated[Path, typer.Option(help="directory")],
    references: NoFiles = [],
    pictures: Pictures = [],
) -> None:
    """Draw every figure of an experiment as SVG and PNG."""
    from splitcodec.report.bounds_figure import draw_bounds
    from splitcodec.report.figures import draw

    draw(points, references, bounds, out, pictures)
    draw_bounds(points, bounds, out)


@app.command()
def report(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    figure: Files,
    bounds: Files,
    codec: Annotated[list[Path], typer.Option(help="codec.json files")],
    out: Out,
    references: NoFiles = [],
    evaluation: Annotated[
        list[Path], typer.Option(help="evaluation files, for intervals of BD-rates")
    ] = [],
    example: Annotated[list[Path], typer.Option(help="made by examples")] = [],
    pictures: Pictures = [],
) -> None:
    """Write the self-contained report page."""
    from splitcodec.report.page import Material, write_report

    material = Material(figure, references, bounds, codec, evaluation, example, pictures)
    write_report(points, material, out)


@app.command()
def examples(
    model: ModelDirectory,
    activations: Annotated[Path, typer.Option(help="evaluation store at the split")],
    codec: Annotated[list[Path], typer.Option(help="codec directories; repeat for several")],
    out: Annotated[list[Path], typer.Option(help="JSON to write, one for each --codec, in order")],
    model_dtype: DtypeOption = Dtype.float32,
    sequences: Annotated[int, typer.Option(min=1, help="for means by channel and position")] = 4,
    passage: Annotated[
        int, typer.Option(min=3, help="tokens whose bits are told one by one")
    ] = 160,
    prompt: Annotated[int, typer.Option(min=1, help="tokens that are continued")] = 48,
    continuation: Annotated[int, typer.Option(min=1, help="tokens to generate")] = 40,
) -> None:
    """Tell where the bits of some codecs go, and what a receiver writes on what it got."""
    check_outs(codec, out)
    from splitcodec.activations.store import Activations
    from splitcodec.files import write_sealed_json
    from splitcodec.inference.examples import Extent, examples
    from splitcodec.inputs.tokenisers import Prompts

    store, prompts = Activations(activations), Prompts.load(model)
    loaded = load_model(model, model_dtype, store.metadata)
    extent = Extent(sequences, passage, prompt, continuation)
    for directory, path in zip(codec, out, strict=True):
        write_sealed_json(path, examples(loaded, store, directory, prompts, extent))


@app.command()
def figure(
    kind: Annotated[Figure, typer.Argument()],
    results: Results,
    out: Annotated[Path, typer.Option(help="file to write: .pdf, .svg or .png")],
    model: Annotated[str | None, typer.Option(help="needed where there are several")] = None,
    split: Annotated[int | None, typer.Option(help="for rd, where there are several")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="for rd: perplexity, kl, top1_agreement, feature_error, or an accuracy"),
    ] = None,
    width: Annotated[
        float, typer.Option(min=2, max=20, help="inches; a column of two is about 3.4")
    ] = 5.5,
) -> None:
    """Draw one figure for a paper, in the looks that methods have everywhere."""
    from splitcodec.report.paper_figure import draw_figure

    draw_figure(kind.value, results, out, model, split, metric, width)


@app.command()
def cards(
    points: Annotated[Path, typer.Option(help="points.parquet")],
    codec: Annotated[list[Path], typer.Option(help="codec.json files")],
    out: Annotated[Path, typer.Option(help="directory; cards are <model>/split<k>/…/card.md")],
) -> None:
    """Write a card of each codec: what it codes, costs and needs, as Markdown and JSON."""
    from splitcodec.report.cards import write_cards

    write_cards(points, codec, out)


@app.command("list")
def list_curves(results: Results) -> None:
    """Print all curves of an experiment, a line each."""
    from splitcodec.report.terminal import print_curves

    print_curves(results)


@app.command()
def show(codec: Annotated[Path, typer.Argument(help="directory of a codec in results")]) -> None:
    """Print the card of a codec."""
    from splitcodec.report.terminal import print_card

    print_card(codec)


@app.command()
def compare(
    results: Results,
    test: Annotated[str, typer.Argument(help="name of a curve, such as klt")],
    anchor: Annotated[str, typer.Argument(help="of the curve that it is held against")],
) -> None:
    """Print the rates of two curves at equal perplexity."""
    from splitcodec.report.terminal import print_comparison

    print_comparison(results, test, anchor)


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
    from splitcodec.tracking.experiment import sync

    sync(results, uri, later)


@app.command()
def summary(results: Results) -> None:
    """Print the table of points and where everything lies."""
    from splitcodec.report.summary import print_summary

    print_summary(results)


@app.command()
def schema() -> None:
    """Print the JSON schema of params files."""
    print(json.dumps(Settings.model_json_schema(), indent=2, ensure_ascii=False))


@app.command()
def plan(
    params: Annotated[Path, typer.Argument(help="params file")],
    teraflops: Annotated[float, typer.Option(min=0.001, help="of a device, at its peak")] = 312,
    utilisation: Annotated[float, typer.Option(min=0.001, max=1, help="of it, reached")] = 0.3,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="results/<experiment> whose trainings say what a device reaches, instead"
        ),
    ] = None,
    speedup: Annotated[
        float, typer.Option(min=0.001, help="how many times as fast the planned device is")
    ] = 1,
    shape: Annotated[
        list[str], typer.Option(help="MODEL=BLOCKSxCHANNELSxVOCABULARY, where it is not known")
    ] = [],
    warn_terabytes: Annotated[float, typer.Option(help="of activations, above which to warn")] = 1,
) -> None:
    """Say what an experiment will take: jobs, GPU-hours and storage."""
    from splitcodec import plan as planning
    from splitcodec.settings import load_settings

    settings = load_settings(params)
    try:
        given = {
            name: planning.Shape.of(size.split("x"))
            for name, _, size in (text.partition("=") for text in shape)
        }
    except (TypeError, ValueError):
        raise SettingsError(f"--shape {shape}: write gpt2=12x768x50257") from None
    shapes = {model.name: planning.shape_of(model, given) for model in settings.models}
    arithmetic = planning.Device(teraflops, utilisation)
    device = planning.measured(measured) if measured else arithmetic
    faster = planning.Device(device.teraflops * speedup, device.utilisation)
    lines = planning.plan(settings, shapes, faster)
    print(f"{'phase':12} {'jobs':>6} {'GPU-hours':>10} {'GB':>10}")
    for line in lines:
        print(f"{line.phase:12} {line.jobs:6} {line.gpu_hours:10.1f} {line.bytes / 1e9:10.1f}")
    hours, jobs = sum(line.gpu_hours for line in lines), sum(line.jobs for line in lines)
    print(f"{'all':12} {jobs:6} {hours:10.1f} {sum(line.bytes for line in lines) / 1e9:10.1f}")
    reached = (
        f"the {device.teraflops:.3g} TFLOP/s that the trainings of {measured} reached"
        if measured
        else f"{utilisation:.0%} of {teraflops:g} TFLOP/s"
    )
    times = f", times {speedup:g}" if speedup != 1 else ""
    print(
        "By arithmetic: 2 operations a weight and token forward, 6 in training, at "
        f"{reached}{times}. Not counted: tasks, codec networks and their polishing, sensitivity, "
        "and the pretraining of models."
    )
    stores = next(line.bytes for line in lines if line.phase == "activations")
    if stores > warn_terabytes * 1e12:
        print(
            f"warning: {stores / 1e12:.1f} TB of activations; lower activations.train_sequences "
            "(end-to-end codecs read tokens, not stored activations)"
        )


@app.command()
def rehearse(
    params: Annotated[Path, typer.Argument(help="params file")],
    out: Annotated[Path, typer.Option(help="params file of the rehearsal")],
) -> None:
    """Write an experiment in small: all its codecs, for a few steps, on random models."""
    import yaml

    from splitcodec.files import write_text
    from splitcodec.rehearsal import rehearsal
    from splitcodec.settings import load_settings

    values = rehearsal(load_settings(params))
    load_settings(values)
    said = f"# {params} in small, by `splitcodec rehearse`; what it measures means nothing.\n"
    write_text(out, said + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
