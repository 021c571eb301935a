"""What ideas for learning through the back are worth: `python benchmarks/learning.py`.

A codec that has learned the rate, of a run that polishes, is polished as the product does it, and
with one thing changed: noise stands for rounding in what is decoded too, or in nothing; a denoiser,
a causal transformer on what was decoded, which begins with no change, learns with the codec, or
alone, so that the receiver changes and the sender does not. Prints rate, divergence and
divergence + λ · bits on the validation partition, with real rounding. Rates are estimates. Example:
`python benchmarks/learning.py results/polish data/models/smollm2-135m --codec context`.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import typer
from levels import material
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from splitcodec.activations.moments import sample_tokens
from splitcodec.activations.store import Activations
from splitcodec.codecs import conditional
from splitcodec.codecs.base import Estimate
from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.networks import CausalNetwork
from splitcodec.codecs.registry import load_codec
from splitcodec.codecs.rounding import straight_through
from splitcodec.training.fitting import Fitting, TrainingData
from splitcodec.training.log import Log

FARTHEST = 8.0
"""Deviations beyond which a denoiser does not tell values apart."""
Change = Callable[[ConditionalCodec, TrainingData], AbstractContextManager]


class Denoiser(nn.Module):
    """Adds to what was decoded of tokens (batch, tokens, channels) what earlier ones tell too."""

    def __init__(self, values: Tensor, width: int = 192, heads: int = 4) -> None:
        super().__init__()
        self.register_buffer("centre", values.mean(0))
        self.register_buffer("spread", values.std(0))
        channels = values.shape[-1]
        self.network = CausalNetwork(channels, channels, width, 1, heads, zero=True)

    def forward(self, decoded: Tensor) -> Tensor:
        """Of the same shape."""
        inputs = ((decoded - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST)
        return decoded + self.spread * self.network(inputs)


def as_it_is(codec: ConditionalCodec, data: TrainingData) -> AbstractContextManager:
    """Noise in the rate, rounding in what is decoded."""
    return nullcontext()


def noise_decoded(codec: ConditionalCodec, data: TrainingData) -> AbstractContextManager:
    """Noise in both."""
    return patch.object(conditional, "straight_through", codec.noisy)


def rounded_rate(codec: ConditionalCodec, data: TrainingData) -> AbstractContextManager:
    """Rounding in both."""
    return patch.object(codec, "noisy", straight_through)


def denoised(codec: ConditionalCodec, data: TrainingData) -> AbstractContextManager:
    """A denoiser learns with the codec."""
    denoiser = Denoiser(sample_tokens(data.activations, 16384, 0).values)
    codec.add_module("denoiser", denoiser)
    codec.register_forward_hook(
        lambda _codec, _inputs, own: Estimate(denoiser(own.reconstruction), own.bits)
    )
    return nullcontext()


def denoised_alone(codec: ConditionalCodec, data: TrainingData) -> AbstractContextManager:
    """A denoiser learns, the codec does not."""
    codec.requires_grad_(False)
    return denoised(codec, data)


CHANGES: dict[str, Change] = {
    "as it is": as_it_is,
    "noise in what is decoded": noise_decoded,
    "rounding in the rate": rounded_rate,
    "denoiser": denoised,
    "denoiser alone": denoised_alone,
}


def polished(
    folder: Path, change: Change, data: TrainingData, steps: int, tokens: int
) -> tuple[float, dict[str, float], dict[str, float]]:
    """λ, and what validation found before and after."""
    codec, meaning = load_codec(folder)
    if codec.has_trellis:
        raise typer.BadParameter("a trellis has no gradient: name the codec that it was put into")
    weight = meaning["lambda"]
    changes = {"steps": 0, "polish_steps": steps, "polish_batch_tokens": tokens}
    settings, log = codec.hyperparameters.model_copy(update=changes), Log()
    with change(codec, data), tempfile.TemporaryDirectory() as scratch:
        Fitting(codec, settings, data, [weight], 0).run(Path(scratch) / "checkpoint", log)
    validated = [entry for entry in log.entries if entry["phase"] == "polish_validation"]
    return weight, validated[0], validated[-1]


def main(
    results: Path,
    model: Path,
    codec: Annotated[str, typer.Option(help="that has learned the rate alone")],
    split: int = 20,
    rate: Annotated[list[str], typer.Option(help="λ as in its folder; repeat for several")] = [
        "0.0001",
        "0.0006",
    ],
    change: Annotated[list[str], typer.Option(help="repeat for several")] = list(CHANGES),
    steps: int = 100,
    tokens: Annotated[int, typer.Option(help="a step")] = 512,
) -> None:
    """Polish, validate, print."""
    if unknown := set(change) - CHANGES.keys():
        raise typer.BadParameter(f"{', '.join(unknown)}: it is one of {', '.join(CHANGES)}")
    data, data.model, data.validation = material(results, model, split)
    data.references = Activations(results / f"activations/{model.name}/final/train.parquet")
    data.model.requires_grad_(False)
    table = Table("λ", "", "bits/token", "KL, nats/token", "KL + λ · bits")
    for own in rate:
        folder = results / f"codecs/{model.name}/split{split}/{codec}/lambda{own}-seed0"
        for name in change:
            weight, before, after = polished(folder, CHANGES[name], data, steps, tokens)
            rows = ({"before": before} if name == change[0] else {}) | {name: after}
            for label, found in rows.items():
                figures = (f"{found[key]:.5f}" for key in ("distortion", "loss"))
                table.add_row(f"{weight:g}", label, f"{found['bits_per_token']:,.1f}", *figures)
            Console().print(table)


if __name__ == "__main__":
    typer.run(main)
