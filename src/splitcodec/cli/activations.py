"""Representations, and how sensitive the model is to them."""

from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    BatchSequences,
    Dtype,
    DtypeOption,
    ModelDirectory,
    SeedOption,
    ShardOption,
    app,
    load_model,
)
from splitcodec.errors import SettingsError


@app.command()
def extract(
    model: ModelDirectory,
    tokens: Annotated[
        list[Path], typer.Option(help="Parquet file made by tokenise or prepare; one a partition")
    ],
    split: Annotated[list[int], typer.Option(help="after how many blocks; repeat for several")],
    out: Annotated[Path, typer.Option(help="directory; files are split<k>/<partition>.parquet")],
    final: Annotated[bool, typer.Option(help="store the final representation as well")] = True,
    model_dtype: DtypeOption = Dtype.float32,
    dtype: Annotated[Dtype, typer.Option(help="of the stored values")] = Dtype.float16,
    batch_sequences: BatchSequences = 4,
    train_sequences: Annotated[
        int | None, typer.Option(min=1, help="of partition train, spread evenly")
    ] = None,
    patch: Annotated[
        int, typer.Option(min=1, help="positions a side of a token, of feature maps")
    ] = 1,
    shard: ShardOption = None,
) -> None:
    """Write the representations at all splits, and the final one, in one forward pass.

    Without the final one, blocks after the last split are not run.
    """
    import torch

    from splitcodec.activations.extraction import extract
    from splitcodec.inputs.model_inputs import read_inputs
    from splitcodec.inputs.shards import Shard

    inputs = {path: read_inputs(path).metadata | {"patch": patch} for path in tokens}
    loaded = load_model(model, model_dtype, *inputs.values())
    for k in split:
        loaded.check_split(k)
    if loaded.blocks in split:
        raise SettingsError(f"split {loaded.blocks} leaves no block behind; it is stored as final")
    partitions = [meaning["partition"] for meaning in inputs.values()]
    if len(set(partitions)) < len(partitions):
        raise SettingsError("two files of one partition would make the same store; give one")
    part = Shard.parse(shard) if shard else None
    places = {k: out / f"split{k}" for k in split}
    if final:
        places[loaded.blocks] = out / "final"
    for path, meaning in inputs.items():
        partition = meaning["partition"]
        outputs = {k: place / f"{partition}.parquet" for k, place in places.items()}
        wanted = train_sequences if partition == "train" else None
        stored = getattr(torch, dtype)
        extract(loaded, path, outputs, stored, batch_sequences, wanted, part)


@app.command()
def sensitivity(
    model: ModelDirectory,
    activations: Annotated[list[Path], typer.Option(help="training stores, one a split")],
    out: Annotated[Path, typer.Option(help="directory; files are split<k>.safetensors")],
    model_dtype: DtypeOption = Dtype.float32,
    sequences: Annotated[int, typer.Option(min=1)] = 16,
    batch_sequences: BatchSequences = 2,
    seed: SeedOption = 0,
) -> None:
    """Measure the Fisher information of the representations at all splits."""
    from splitcodec.activations.store import Activations
    from splitcodec.training.sensitivity import measure_sensitivity, save_sensitivity

    stores = {store.metadata["split"]: store for store in map(Activations, activations)}
    if len(stores) < len(activations):
        raise SettingsError("two stores are of one split; name one store a split")
    first, *others = stores.values()
    for other in others:
        first.check_same_data(other)
    loaded = load_model(model, model_dtype, first.metadata)
    measured = measure_sensitivity(loaded, stores, sequences, batch_sequences, seed)
    for split, found in measured.items():
        metadata = stores[split].metadata
        meaning = {key: metadata[key] for key in ("model", "model_hash", "split", "data_hash")}
        meaning |= {"sequences": sequences, "seed": seed}
        save_sensitivity(out / f"split{split}.safetensors", found, meaning)
