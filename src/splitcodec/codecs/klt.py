"""Sensitivity-weighted Karhunen–Loève transform with one Gaussian a channel: the closed form.

To second order the divergence that an error e of the representation causes is ½ eᵀ G e nats,
with G the Fisher information of the model's output with respect to the representation. In the
coordinates z = Uᵀ G^½ (y − μ), with U from the eigenvectors of G^½ Σ G^½, that is ½‖z − ẑ‖², and
the channels are uncorrelated: each gets its own uniform step, scale and gain, chosen to minimise
divergence + λ · bits by exact counts over a sample. Channels not worth their bits are dropped
(reverse water-filling, Cover and Thomas §10.3, by search). No gradient training.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcodec.activations.moments import Moments
from splitcodec.activations.store import mask_of
from splitcodec.codecs.base import Estimate
from splitcodec.codecs.channelwise import ChannelwiseCodec
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.densities.location_scale import Gaussian, scale_indexes, table_scales

_STEP_RATIOS = torch.logspace(-0.3, 0.45, 11)
_REACH = 288


class Klt(ChannelwiseCodec):
    """u = A (y − μ) rounded, each channel under a zero-mean Gaussian of fixed scale."""

    hyperparameters: KltHyperparameters

    def __init__(
        self, name: str, channels: int, hyperparameters: KltHyperparameters, kept: int = 0
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept)
        self.gaussian = Gaussian()
        self.register_buffer("scale_index", torch.zeros(kept, dtype=torch.int32))
        self.update()

    def densities(self) -> dict[str, Gaussian]:
        """One family for all channels."""
        return {"gaussian": self.gaussian}

    def table_of_channel(self) -> Tensor:
        """The table of each channel's scale."""
        return self.scale_index

    def forward(self, representation: Tensor, lengths: Tensor) -> Estimate:
        """Estimated rate under the table scales."""
        mask = mask_of(lengths, representation.shape[1])
        symbols = self.latent(representation).round()
        rate = self.gaussian.bits(symbols, self.scales().to(symbols)).sum(-1) * mask
        return Estimate(self.reconstruct(symbols, mask), rate)

    def scales(self) -> Tensor:
        """The standard deviation of each channel in steps, (kept,) float64."""
        return table_scales().to(self.scale_index.device)[self.scale_index.long()]


@dataclass(frozen=True)
class Quantisation:
    """Per channel: step, gain on reconstruction, coding table, and whether it is coded at all."""

    steps: Tensor
    gains: Tensor
    tables: Tensor
    coded: Tensor


def whitened_transform(
    covariance: Tensor, sensitivity: Tensor, shrinkage: float
) -> tuple[Tensor, Tensor]:
    """The transform T and its inverse, (channels, channels) float64, z = T (y − μ).

    `sensitivity` is G; `shrinkage` times its mean eigenvalue is added to its diagonal, since few
    gradients leave its small eigenvalues uncertain.
    """
    channels = len(sensitivity)
    ridge = shrinkage * sensitivity.diagonal().mean()
    values, vectors = torch.linalg.eigh(sensitivity + ridge * torch.eye(channels).double())
    root = vectors * values.sqrt() @ vectors.T
    inverse_root = vectors / values.sqrt() @ vectors.T
    _, principal = torch.linalg.eigh(root @ covariance @ root)
    principal = principal.flip(-1)
    # Eigenvectors have no sign of their own; this one makes them repeatable.
    principal = principal * principal.sum(0).sign().where(principal.sum(0) != 0, 1.0)
    return principal.T @ root, inverse_root @ principal


def choose_quantisation(latents: Tensor, rate_weight: float) -> Quantisation:
    """Steps, gains and tables for `latents` (samples, channels), minimising ½ error² + λ · bits.

    The search starts from the step that is optimal at high rate, Δ² = 12 λ / ln 2.
    """
    high_rate_step = math.sqrt(12 * rate_weight / math.log(2))
    costs, gains, tables = zip(
        *(_cost_at(latents, high_rate_step * float(r), rate_weight) for r in _STEP_RATIOS),
        strict=True,
    )
    best_cost, best = torch.stack(costs).min(0)
    steps = high_rate_step * _STEP_RATIOS[best]
    pick = lambda options: torch.stack(options).gather(0, best[None])[0]  # noqa: E731
    coded = best_cost < 0.5 * latents.square().mean(0)
    return Quantisation(steps, pick(gains), pick(tables), coded)


def _cost_at(latents: Tensor, step: float, rate_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, reconstruction gain and best table of every channel at one step."""
    symbols = (latents / step).round()
    energy = symbols.square().mean(0).clamp_min(1e-12)
    gain = ((latents * symbols).mean(0) / (step * energy)).clamp(0.5, 1.5)
    error = 0.5 * (latents - symbols * (gain * step)).square().mean(0)
    rates = _histograms(symbols) @ Gaussian().table_bits(_REACH).T.float()
    rate, table = rates.min(-1)
    return error + rate_weight * rate, gain, table


def _histograms(symbols: Tensor) -> Tensor:
    """Frequencies of the integers -reach … reach in each channel, (channels, 2·reach+1)."""
    samples, channels = symbols.shape
    width = 2 * _REACH + 1
    cells = symbols.clamp(-_REACH, _REACH).long() + _REACH + width * torch.arange(channels)
    counts = torch.bincount(cells.flatten(), minlength=width * channels)
    return counts.view(channels, width).float() / samples


def scaled_identity(mean: Tensor, first_mean: Tensor, deviation: Tensor, spread: float) -> Klt:
    """A gain for each channel and no transform: symbols have the deviation `spread`.

    `mean`, `first_mean`, `deviation` (channels,): where training end to end may start.
    """
    gain = spread / deviation.clamp_min(1e-6)
    codec = Klt("klt", len(mean), KltHyperparameters(), kept=len(mean))
    codec.mean.copy_(mean)
    codec.first_mean.copy_(first_mean)
    codec.analysis.copy_(torch.diag(gain))
    codec.synthesis.copy_(torch.diag(1 / gain))
    codec.scale_index.copy_(scale_indexes(torch.full_like(mean, spread)))
    return codec


def fit_klt(
    hyperparameters: KltHyperparameters,
    moments: Moments,
    sensitivity: Tensor,
    sample: Tensor,
    rate_weight: float,
) -> Klt:
    """The closed-form codec at λ = `rate_weight` (nats a bit), from statistics alone.

    `sensitivity` (channels, channels) float64; `sample` (samples, channels) chooses the steps.
    """
    forward, backward = whitened_transform(
        moments.covariance, sensitivity, hyperparameters.shrinkage
    )
    latents = ((sample.double() - moments.mean) @ forward.T).float()
    chosen = choose_quantisation(latents, rate_weight)
    coded = chosen.coded
    steps = chosen.steps[coded].double()
    codec = Klt("klt", len(moments.mean), hyperparameters, kept=int(coded.sum()))
    codec.mean.copy_(moments.mean)
    codec.first_mean.copy_(moments.first_mean)
    codec.analysis.copy_(forward[coded] / steps[:, None])
    codec.synthesis.copy_(backward[:, coded] * (steps * chosen.gains[coded]))
    codec.scale_index.copy_(chosen.tables[coded])
    return codec
