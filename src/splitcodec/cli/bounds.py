"""What rate is possible, and where to split."""

from pathlib import Path
from typing import Annotated

import typer

from splitcodec.cli.common import (
    Dtype,
    DtypeOption,
    ModelDirectory,
    Out,
    SeedOption,
    app,
    increase,
    load_model,
)
from splitcodec.errors import SettingsError


@app.command()
def bounds(
    activations: Annotated[Path, typer.Option(help="training store at the split")],
    out: Out,
    codec: Annotated[list[Path], typer.Option(help="codecs with a transform")] = [],
    evaluation: Annotated[
        Path | None, typer.Option(help="evaluation store, for what generalises")
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="made by sensitivity, for rate-distortion functions")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="made by references, for the gap to the text's entropy")
    ] = None,
    rademacher_draws: Annotated[int, typer.Option(min=2)] = 10_000,
    rate_sequences: Annotated[
        int, typer.Option(min=2, help="training sequences whose rate is measured")
    ] = 16,
    seed: SeedOption = 0,
) -> None:
    """Bound the rate of a representation and of codecs in every way there is."""
    from splitcodec.activations.store import Activations
    from splitcodec.bounds.measure import measure_bounds
    from splitcodec.evaluation.references import model_rate
    from splitcodec.files import write_sealed_json
    from splitcodec.settings.measures import Bounds
    from splitcodec.training.sensitivity import sensitivity_of

    store = Activations(activations)
    report = measure_bounds(
        store,
        codec,
        Bounds(rademacher_draws=rademacher_draws, rate_sequences=rate_sequences),
        seed,
        Activations(evaluation) if evaluation else None,
        sensitivity_of(store, sensitivity).matrix if sensitivity else None,
        model_rate(references) if references else None,
    )
    write_sealed_json(out, report)


@app.command()
def advise(
    model: ModelDirectory,
    tokens: Annotated[Path, typer.Option(help="Parquet file made by tokenise, of training text")],
    target_perplexity: Annotated[
        str, typer.Option(help="how much the perplexity may rise, such as +2%")
    ],
    split: Annotated[
        list[int], typer.Option(help="candidates; repeat for several, all if left out")
    ] = [],
    model_dtype: DtypeOption = Dtype.float32,
    sequences: Annotated[int, typer.Option(min=4, help="for the statistics")] = 32,
    bandwidth: Annotated[
        float | None, typer.Option(min=1, help="of the link, in bits a second")
    ] = None,
    sender_speed: Annotated[
        float | None, typer.Option(min=1e-6, help="of the whole model there, in tokens a second")
    ] = None,
    receiver_speed: Annotated[float | None, typer.Option(min=1e-6)] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write")] = None,
    seed: SeedOption = 0,
) -> None:
    """Say where to split: the rate of every split at a target perplexity, without any codec."""
    target = increase(target_perplexity)
    speeds = (bandwidth, sender_speed, receiver_speed)
    if any(speeds) and not all(speeds):
        raise SettingsError("give --bandwidth, --sender-speed and --receiver-speed together")
    from splitcodec.bounds.advice import Devices
    from splitcodec.bounds.advising import advise, print_advice
    from splitcodec.files import write_sealed_json
    from splitcodec.inputs.tokens import read_tokens

    loaded = load_model(model, model_dtype, read_tokens(tokens).metadata)
    splits = split or list(range(1, loaded.blocks))
    if not all(1 <= k < loaded.blocks for k in splits):
        raise SettingsError(f"a split lies between 1 and {loaded.blocks - 1}, got {splits}")
    lines = advise(loaded, tokens, splits, target, sequences, seed)
    devices = Devices(*speeds) if all(speeds) else None
    report = print_advice(lines, loaded.blocks, target, devices)
    if out:
        write_sealed_json(out, report)
