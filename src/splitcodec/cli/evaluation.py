"""What the decoded representation is worth, and what coding it takes."""

from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    BatchSequences,
    Dtype,
    DtypeOption,
    ModelDirectory,
    OriginalModel,
    Out,
    Resamples,
    Store,
    app,
    check_outs,
    load_model,
    parse_yaml,
    validated,
)
from splitcodec.errors import SettingsError
from splitcodec.settings import Task


@app.command()
def evaluate(
    model: ModelDirectory,
    activations: Annotated[Path, typer.Option(help="evaluation store at the split")],
    references: Annotated[Path, typer.Option(help="evaluation store at the last block")],
    codec: Annotated[list[Path], typer.Option(help="codec directories; repeat for several")],
    bitstream: Annotated[list[Path], typer.Option(help="container files of those codecs")],
    out: Annotated[list[Path], typer.Option(help="JSON to write, one for each --codec, in order")],
    model_dtype: DtypeOption = Dtype.float32,
    batch_sequences: BatchSequences = 2,
    bootstrap: Resamples = 1000,
) -> None:
    """Decode bitstreams and measure the model's output on what was decoded."""
    check_outs(codec, out)
    from splitcodec.activations.store import Activations
    from splitcodec.codecs.base import load_state
    from splitcodec.evaluation.fidelity import evaluate
    from splitcodec.files import write_sealed_json

    stores = Activations(activations), Activations(references)
    loaded = load_model(model, model_dtype, stores[0].metadata)
    rows = evaluate(loaded, *stores, codec, bitstream, batch_sequences, bootstrap)
    for directory, path in zip(codec, out, strict=True):
        digest = load_state(directory)[0]["hash"]
        own = [row for row in rows if row["codec_hash"] == digest]
        if not own:
            raise SettingsError(f"no --bitstream was made by the codec in {directory}; name one")
        write_sealed_json(path, {"points": own})


@app.command()
def latency(
    activations: Store,
    codec: Annotated[list[Path], typer.Option(help="codec directories; repeat for several")],
    out: Out,
    sequences: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    model: OriginalModel = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Time encoding and decoding with every codec, one after the other in this process."""
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.latency import measure_latency
    from splitcodec.files import write_sealed_json

    store = Activations(activations)
    loaded = load_model(model, model_dtype, store.metadata) if model else None
    write_sealed_json(out, measure_latency(store, codec, sequences, repeats, loaded))


@app.command()
def references(
    model: ModelDirectory,
    activations: Annotated[Path, typer.Option(help="evaluation store at the last block")],
    train_tokens: Annotated[Path, typer.Option(help="for the unigram model")],
    tokens: Annotated[Path, typer.Option(help="the evaluation tokens")],
    out: Out,
    model_dtype: DtypeOption = Dtype.float32,
    batch_sequences: BatchSequences = 2,
    bootstrap: Resamples = 1000,
) -> None:
    """Measure the uncoded model, and what sending the token ids would cost."""
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.fidelity import evaluate_uncoded, ranks_of_labels
    from splitcodec.evaluation.references import token_rates
    from splitcodec.files import write_sealed_json
    from splitcodec.inputs.tokens import read_tokens

    store = Activations(activations)
    store.check_made_from(tokens)
    train, evaluated = read_tokens(train_tokens), read_tokens(tokens)
    loaded = load_model(model, model_dtype, store.metadata, train.metadata)
    own = evaluate_uncoded(loaded, store, batch_sequences, bootstrap)
    rates = token_rates(
        train,
        evaluated,
        loaded.vocabulary,
        own["cross_entropy"],
        ranks_of_labels(loaded, store, batch_sequences),
    )
    names = {key: store.metadata[key] for key in ("model", "partition")}
    uncoded = {
        "cross_entropy_uncoded": own["cross_entropy"],
        "cross_entropy_low": own["cross_entropy_low"],
        "cross_entropy_high": own["cross_entropy_high"],
        "perplexity_uncoded": own["perplexity"],
    }
    write_sealed_json(out, {**names, **rates, **uncoded})


@app.command()
def task(
    model: ModelDirectory,
    task: Annotated[str, typer.Option(help="'{name: mine, kind: files, path: my/*.jsonl}'")],
    codec: Annotated[list[Path], typer.Option(help="codec directories; repeat for several")],
    out: Annotated[list[Path], typer.Option(help="JSON to write, one for each --codec, in order")],
    model_dtype: DtypeOption = Dtype.float32,
    batch_sequences: BatchSequences = 8,
    bootstrap: Resamples = 1000,
    start_token: bool = True,
) -> None:
    """Measure the accuracy of the model on a downstream task, with each codec inside."""
    check_outs(codec, out)
    wanted = validated(Task, parse_yaml(task) or {})
    from splitcodec.files import write_sealed_json
    from splitcodec.inference.tasks import run_task

    loaded = load_model(model, model_dtype)
    rows = run_task(wanted, loaded, model, codec, batch_sequences, bootstrap, start_token)
    for row, path in zip(rows, out, strict=True):
        write_sealed_json(path, {"points": [row]})


@app.command()
def pictures(
    model: ModelDirectory,
    pixels: Annotated[Path, typer.Option(help="Parquet file made by prepare, for evaluation")],
    references: Annotated[Path, typer.Option(help="evaluation store at the last block")],
    out: Out,
    jpeg: Annotated[list[int], typer.Option(min=1, max=95, help="qualities")] = [],
    webp: Annotated[list[int], typer.Option(min=0, max=100, help="qualities")] = [],
    model_dtype: DtypeOption = Dtype.float32,
    batch_sequences: BatchSequences = 8,
    bootstrap: Resamples = 1000,
) -> None:
    """Measure what sending the pictures themselves would cost, and what the model makes of them."""
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.pictures import evaluate_pictures
    from splitcodec.files import write_sealed_json
    from splitcodec.inputs.pixels import read_pixels

    store, table = Activations(references), read_pixels(pixels)
    loaded = load_model(model, model_dtype, store.metadata)
    points = [
        point
        for format, qualities in (("jpeg", jpeg), ("webp", webp))
        for point in evaluate_pictures(
            loaded, table, store, format, qualities, batch_sequences, bootstrap
        )
    ]
    write_sealed_json(out, {"points": points})
