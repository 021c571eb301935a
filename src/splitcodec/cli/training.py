"""Codecs, and models that learn."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    CodecDirectory,
    Dtype,
    DtypeOption,
    Rules,
    SeedOption,
    app,
    assignments,
    load_model,
    read_rules,
    validated,
    without,
)
from splitcodec.errors import SettingsError
from splitcodec.settings import TrainedSource


@app.command()
def pretrain(
    documents: Annotated[Path, typer.Option(help="Parquet file made by fetch-text")],
    rule: Rules,
    out: Annotated[Path, typer.Option(help="directory to make")],
    set: Annotated[
        list[str], typer.Option(help="KEY=VALUE, of a source of kind trained; repeat for several")
    ] = [],
    checkpoint: Annotated[
        Path | None, typer.Option(help="to resume from; beside the model if not named")
    ] = None,
) -> None:
    """Train a small model on the train partition; resumes where a killed run stopped."""
    source = validated(TrainedSource, {"kind": "trained", **assignments(set)})
    rules = read_rules(rule)
    if "train" not in rules:
        raise SettingsError(f"no --rule for partition train; there are {', '.join(rules)}")
    from splitcodec.training.log import Log
    from splitcodec.training.pretraining import pretrain

    checkpoint = checkpoint or out.with_name(out.name + ".checkpoint")
    log = Log(checkpoint.with_suffix(".jsonl"))
    pretrain(source, documents, rules["train"], without(rules, "train"), checkpoint, out, log)


@app.command()
def train(
    codec: Annotated[
        str,
        typer.Option(
            help="klt, trellis, factorised, hyperprior, direct-access; tuned, a baseline too"
        ),
    ],
    activations: Annotated[Path, typer.Option(help="training store at the split")],
    out: Annotated[Path, typer.Option(help="directory of the codec")],
    rate_weight: Annotated[
        list[float], typer.Option("--lambda", help="λ in nats a bit; repeat for one codec for all")
    ] = [],
    name: Annotated[str | None, typer.Option(help="of its points; the codec's if left out")] = None,
    mode: Annotated[
        str, typer.Option(help="frozen, back or end-to-end; the latter two also as -adapters")
    ] = "frozen",
    seed: SeedOption = 0,
    set: Annotated[
        list[str], typer.Option(help="KEY=VALUE, a hyper-parameter; repeat for several")
    ] = [],
    tune: Annotated[
        list[str], typer.Option(help="KEY=VALUE, how the model learns; repeat for several")
    ] = [],
    sensitivity: Annotated[
        Path | None, typer.Option(help="made by sensitivity; not for end-to-end")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="model directory; where it takes part")] = None,
    model_dtype: DtypeOption = Dtype.float32,
    references: Annotated[Path | None, typer.Option(help="training store, final")] = None,
    validation: Annotated[Path | None, typer.Option(help="validation store at the split")] = None,
    validation_references: Annotated[
        Path | None, typer.Option(help="validation store, final")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="training tokens, for end-to-end; all of them are used")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="with --set trellis=true: directory of this codec, trained without"),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="to resume from; beside the codec if not named")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="results/<experiment>; MLflow then shows the training live")
    ] = None,
    uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="of MLflow, to show it live")
    ] = None,
) -> None:
    """Train a codec, and the model with it where the mode says so; resumes after a kill."""
    changes, tuning = assignments(set), assignments(tune)
    from splitcodec.inputs.tables import read_meaning
    from splitcodec.training.run import Material, recipe, train

    wanted = recipe(codec, rate_weight, seed, changes, name, mode, tuning)
    meaning = read_meaning(activations)
    beside = (references, validation, validation_references, tokens)
    given = [meaning, *map(read_meaning, filter(None, beside))]
    material = Material(
        sensitivity=sensitivity,
        references=references,
        validation=validation,
        validation_references=validation_references,
        model=load_model(model, model_dtype, *given) if wanted.needs_model and model else None,
        tokens=tokens,
        start=start,
        checkpoint=checkpoint or out.with_name(out.name + ".checkpoint"),
    )
    with ExitStack() as stack:
        watch = None
        if results and uri:
            from splitcodec.tracking.live import LiveRun

            point = wanted.point | {key: meaning[key] for key in ("model", "split")}
            watch = stack.enter_context(LiveRun(point, results, uri))
        train(wanted, activations, out, material, watch)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def launch(
    nodes: Annotated[int, typer.Argument(min=1)],
    processes: Annotated[int, typer.Argument(min=1, help="on each node")],
    command: Annotated[list[str], typer.Argument(help="splitcodec train ...")],
) -> None:
    """Run a training as several processes, by torchrun; with one, just run it."""
    from splitcodec.launch import launch

    launch(command, nodes, processes)


@app.command()
def set_rate(
    codec: CodecDirectory,
    rate_weight: Annotated[float, typer.Option("--lambda", help="λ in nats a bit")],
    out: Annotated[Path, typer.Option(help="directory of the codec")],
) -> None:
    """Make the codec of one λ from a codec for several."""
    from splitcodec.training.run import set_rate

    set_rate(codec, rate_weight, out)


@app.command()
def baselines(
    codec: Annotated[list[str], typer.Option(help="fp16, int2 to int8; repeat for several")],
    activations: Annotated[Path, typer.Option(help="training store, for its shape")],
    out: Annotated[Path, typer.Option(help="directory; codecs are <codec>/fixed")],
) -> None:
    """Write the codecs that need no training."""
    from splitcodec.training.run import recipe, train

    for name in codec:
        train(recipe(name, [], 0, {}), activations, out / name / "fixed")
