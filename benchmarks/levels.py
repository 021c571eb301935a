"""What levels are worth: `python benchmarks/levels.py results/default data/models/smollm2-135m`.

Three closed-form codecs on the validation partition of a run: one step for all tokens; tokens that
choose their level, fitted for each λ; and one codec with levels that serves all λ. Prints rate and
divergence of each, and the BD-rate of the latter two against the first at equal divergence. Rates
are estimates, which files confirm within half a percent.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from splitcodec.activations.store import Activations
from splitcodec.codecs.catalogue import middle
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.report.curves import bd_percent
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import divergence
from splitcodec.training.fitting import TrainingData, fit_closed_form
from splitcodec.training.sensitivity import load_sensitivity

RATE_WEIGHTS = [3e-5, 1e-4, 2.5e-4, 6e-4]
REACH = 12


@torch.inference_mode()
def measure(codec: Klt, model: SplitModel, stores: tuple[Activations, ...], count: int) -> tuple:
    """Bits a token, and nats a token, over `count` sequences."""
    activations, references = stores
    sums = torch.zeros(3, dtype=torch.float64)
    for row in range(count):
        batch, reference = activations.read([row]), references.read([row])
        estimate = codec(batch.representation, batch.lengths)
        split = activations.metadata["split"]
        parts = estimate.reconstruction, reference.representation, batch.mask
        tokens = int(batch.lengths.sum())
        nats = divergence(model, split, *parts).item()
        sums += torch.tensor([estimate.bits.sum().item(), nats * tokens, tokens])
    return tuple((sums[:2] / sums[2]).tolist())


def material(
    results: Path, model: Path, split: int
) -> tuple[TrainingData, SplitModel, tuple[Activations, ...]]:
    """What a run left for training; the model; validation at the split and at the end."""
    stored = results / "activations" / model.name
    train = Activations(stored / f"split{split}/train.parquet")
    places = (f"split{split}", "final")
    pair = tuple(Activations(stored / f"{place}/validation.parquet") for place in places)
    found, _ = load_sensitivity(results / f"sensitivity/{model.name}/split{split}.safetensors")
    return TrainingData(train, found, split), SplitModel.load(model), pair


def print_curves(curves: dict[str, list[tuple]]) -> None:
    """Rate and divergence of each codec by λ, and the BD-rate of each against the first."""
    table, console = Table("codec", "λ", "bits/token", "KL, nats/token"), Console()
    for number, weight in enumerate(RATE_WEIGHTS):
        for name, curve in curves.items():
            bits, nats = curve[number]
            table.add_row(name, f"{weight:g}", f"{bits:,.1f}", f"{nats:.5f}")
    console.print(table)
    first, *others = curves
    for name in others:
        percent = bd_percent(*(np.array(curves[one]).T for one in (first, name)))
        console.print(f"{name}: BD-rate {percent:+.1f} % at equal divergence")


def main(
    results: Path,
    model: Path,
    split: int = 20,
    sequences: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Fit, measure, print."""
    data, loaded, pair = material(results, model, split)
    curves: dict[str, list[tuple]] = {"one step": [], "levels": [], "levels, one codec for all": []}
    shared = fit_closed_form(KltHyperparameters(levels=REACH), data, RATE_WEIGHTS, 0)
    for weight in RATE_WEIGHTS:
        shared.levels.set_rate(weight / middle(RATE_WEIGHTS))
        codecs = [fit_closed_form(KltHyperparameters(levels=n), data, [weight], 0) for n in (0, 8)]
        for curve, codec in zip(curves.values(), [*codecs, shared], strict=True):
            curve.append(measure(codec, loaded, pair, sequences))
    print_curves(curves)


if __name__ == "__main__":
    typer.run(main)
