"""What ideas for quantiser and reconstruction are worth: `python benchmarks/leads.py`.

The closed form on the validation partition of a run, as it is and with one thing changed: decoded
values multiplied to the least squared error, or made longer; rounding that weighs bits (a smaller
symbol where that costs less divergence + λ · bits), as video encoders do, and the same decoded
longer by what that shrinks; trellis-coded quantisation. Prints rate and divergence, and BD-rates at
equal divergence. Rates are estimates. Example:
`python benchmarks/leads.py results/default data/models/smollm2-135m --split 20`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from levels import RATE_WEIGHTS, material, measure, print_curves
from torch import Tensor

from splitcodec.activations.moments import sample_tokens
from splitcodec.codecs.base import Estimate
from splitcodec.codecs.hyperparameters import KltHyperparameters, TrellisHyperparameters
from splitcodec.codecs.klt import Klt
from splitcodec.codecs.trellis import Trellis
from splitcodec.training.fitting import fit_closed_form, start


class Changed:
    """A closed form with another quantiser, (latents) -> symbols, and multiples (kept,)."""

    def __init__(self, codec: Klt, quantise: Callable[[Tensor], Tensor], multiples: Tensor) -> None:
        self.codec, self.quantise, self.multiples = codec, quantise, multiples

    def __call__(self, representation: Tensor, lengths: Tensor) -> Estimate:
        """As the codec's own."""
        means, _ = self.codec.means(None, representation.shape[1])
        symbols = self.quantise(self.codec.latent(representation - means))
        bits = self.codec.gaussian.bits(symbols, self.codec.scales().to(symbols)).sum(-1)
        return Estimate(self.codec.reconstruct(self.multiples * symbols) + means, bits)


def variants(
    codec: Klt, sensitivity: Tensor, values: Tensor, weight: float
) -> dict[str, Klt | Trellis | Changed]:
    """The codec and its changes, by name; multiples are those of `values` (samples, channels)."""
    ones = torch.ones(codec.kept)
    latents = codec.latent(values - codec.mean)
    symbols = latents.round()
    closest = (latents * symbols).sum(0) / symbols.square().sum(0).clamp_min(1)
    frugal = rate_aware(codec, sensitivity, weight)
    shrunk = (latents * frugal(latents)).sum(0)
    longer = torch.where(shrunk > 0, latents.square().sum(0) / shrunk, 1)
    trellis = start("trellis", TrellisHyperparameters(), codec)
    trellis.fit(values - codec.mean, sensitivity, weight)
    return {
        "as it is": codec,
        "closest multiple": Changed(codec, torch.round, closest.clamp(0.5, 1.5)),
        "1.05 as long": Changed(codec, torch.round, 1.05 * ones),
        "rounding weighs bits": Changed(codec, frugal, ones),
        "the same, decoded longer": Changed(codec, frugal, longer.clamp(1, 1.5)),
        "trellis": trellis,
    }


def rate_aware(codec: Klt, sensitivity: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
    """Rounds to the nearest integer or the next towards zero, whichever costs less."""
    squared_steps = codec.squared_steps(sensitivity).float()

    def quantise(latents: Tensor) -> Tensor:
        nearest = latents.abs().round()
        options = torch.stack([nearest, (nearest - 1).clamp_min(0)])
        bits = codec.gaussian.bits(options, codec.scales().to(options))
        costs = 0.5 * squared_steps * (latents.abs() - options).square() + weight * bits
        return latents.sign() * options.gather(0, costs.argmin(0)[None])[0]

    return quantise


@torch.inference_mode()
def main(
    results: Path,
    model: Path,
    split: int = 20,
    sequences: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Fit, measure, print."""
    data, loaded, pair = material(results, model, split)
    values = sample_tokens(data.activations, KltHyperparameters().samples, 0).values
    curves: dict[str, list[tuple]] = {}
    for weight in RATE_WEIGHTS:
        codec = fit_closed_form(KltHyperparameters(), data, [weight], 0)
        for name, changed in variants(codec, data.sensitivity.matrix, values, weight).items():
            curves.setdefault(name, []).append(measure(changed, loaded, pair, sequences))
    print_curves(curves)


if __name__ == "__main__":
    typer.run(main)
