"""Representations to bytes and back."""

import json
from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    CodecDirectory,
    Dtype,
    DtypeOption,
    ModelDirectory,
    OriginalModel,
    app,
    load_model,
)
from splitcodec.errors import SettingsError


@app.command()
def encode(
    file: Annotated[Path, typer.Argument(help="activation store")],
    codec: Annotated[list[Path], typer.Option(help="codec directory; repeat for several")],
    out: Annotated[
        list[Path],
        typer.Option(
            help="one for each --codec, - for standard output; FILE with suffix .rdc if not given"
        ),
    ] = [],
    coder: Annotated[
        list[str],
        typer.Option(
            help="for baselines raw, deflate or zstd, one for each --codec; ans for all"
            " others, which need not be given"
        ),
    ] = [],
    model: OriginalModel = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Encode an activation store into container files."""
    outputs = out or [file.with_suffix(".rdc")]
    coders = coder or [None] * len(codec)
    if not len(codec) == len(coders) == len(outputs):
        raise SettingsError("give one --coder and one --out for each --codec, in the same order")
    if len(outputs) > 1 and Path("-") in outputs:
        raise SettingsError("standard output takes one container: give one --codec")
    from splitcodec.activations.store import Activations
    from splitcodec.evaluation.bitstreams import encode

    store = Activations(file)
    loaded = load_model(model, model_dtype, store.metadata) if model else None
    for directory, name, path in zip(codec, coders, outputs, strict=True):
        encode(store, directory, name, path, loaded)


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="container file, - for standard input")],
    codec: CodecDirectory,
    out: Annotated[
        Path | None,
        typer.Option(help="store to write; FILE with suffix .decoded.parquet if not given"),
    ] = None,
    activations: Annotated[
        Path | None, typer.Option(help="original store, for the names of documents and tokens")
    ] = None,
    model: OriginalModel = None,
    model_dtype: DtypeOption = Dtype.float32,
) -> None:
    """Decode a container file into an activation store."""
    if file == Path("-") and not out:
        raise SettingsError("what comes from standard input needs --out")
    if out == Path("-"):
        raise SettingsError("a store is no stream: name a file as --out")
    from splitcodec.codecs.base import load_state
    from splitcodec.evaluation.bitstreams import decode_to_store

    loaded = load_model(model, model_dtype, load_state(codec)[0]) if model else None
    decode_to_store(file, codec, activations, out or file.with_suffix(".decoded.parquet"), loaded)


@app.command()
def inspect(
    file: Path,
    verify: Annotated[bool, typer.Option("--verify", help="read all and check it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    chunks: Annotated[int, typer.Option(min=0, help="rows of the chunk table to show")] = 20,
) -> None:
    """Say what a container or a Parquet file of ours holds."""
    if file.suffix == ".parquet":
        from splitcodec.inputs.tables import read_meaning, verify_table

        meaning = verify_table(file) if verify else read_meaning(file)
        print(json.dumps(meaning, indent=2))
        return
    from splitcodec.coding.container import Container
    from splitcodec.report.inspection import describe as description_of
    from splitcodec.report.inspection import print_container

    container = Container.open(file)
    if verify:
        container.verify()
    if as_json:
        print(json.dumps(description_of(container), indent=2))
    else:
        print_container(container, chunks, verify)


@app.command()
def generate(
    model: ModelDirectory,
    codec: CodecDirectory,
    prompt: Annotated[str, typer.Option(help="text to continue")],
    tokens: Annotated[int, typer.Option(min=1, help="to generate, at most")] = 64,
    coder: Annotated[
        str | None, typer.Option(help="ans, or for baselines raw, deflate, zstd")
    ] = None,
    model_dtype: DtypeOption = Dtype.float32,
    start_token: Annotated[bool, typer.Option(help="before the prompt, as in training")] = True,
) -> None:
    """Continue a prompt with front and back apart, the codec's packets between them."""
    import torch

    from splitcodec.codecs.registry import load_codec
    from splitcodec.evaluation.bitstreams import model_of_codec
    from splitcodec.inference.generation import generate
    from splitcodec.inputs.tokenisers import Prompts

    loaded_codec, meaning = load_codec(codec, coder)
    original = load_model(model, model_dtype, meaning)
    prompts = Prompts.load(model, start_token)
    loaded_codec.attach(original.embedding)
    changed = model_of_codec(original, codec, meaning)
    ids = torch.from_numpy(prompts.encode(prompt))
    done = generate(changed, meaning["split"], loaded_codec, ids, tokens, prompts.stop)
    print(prompt + prompts.decode(done.tokens))
    parts = ", ".join(f"{part} {spent:.2f}" for part, spent in done.milliseconds_per_token.items())
    print(f"{done.sent} tokens sent, {done.bits_per_token:.0f} bits a token; ms a token: {parts}")
