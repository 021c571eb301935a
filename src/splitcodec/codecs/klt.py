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

from splitcodec.activations.moments import SINK_RATIO, Moments, Sample
from splitcodec.codecs.channelwise import ChannelwiseCodec
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.densities.location_scale import Gaussian, scale_indexes, table_scales

_STEP_RATIOS = torch.logspace(-0.3, 0.45, 11)
_REACH = 288
_HISTORY_RIDGE = 1e-3
"""Share of the variance of the token before that stands for uncertain statistics."""
_ROWS_RIDGE = 3e-3
"""The same for the head's rows, as they vary over the vocabulary: few tokens are seen often."""


class Klt(ChannelwiseCodec):
    """u = A (y − μ) rounded, each channel under a zero-mean Gaussian of fixed scale."""

    hyperparameters: KltHyperparameters
    history: Tensor | None = None
    """What the token before tells of a token, for a codec that starts from this one."""
    sink_energy: Tensor

    def __init__(
        self,
        name: str,
        channels: int,
        hyperparameters: KltHyperparameters,
        kept: int = 0,
        vocabulary: int = 0,
    ) -> None:
        super().__init__(name, channels, hyperparameters, kept, vocabulary)
        self.gaussian = Gaussian()
        self.register_buffer("scale_index", torch.zeros(kept, dtype=torch.int32))
        self.update()

    def densities(self) -> dict[str, Gaussian]:
        """One family for all channels."""
        return super().densities() | {"latent": self.gaussian}

    def table_of_channel(self) -> Tensor:
        """The table of each channel's scale."""
        return self.scale_index

    def estimate(self, deviation: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Rate under the table scales."""
        symbols = self.latent(deviation).round()
        rate = self.gaussian.bits(symbols, self.scales().to(symbols)).sum(-1)
        return self.reconstruct(self.gain * symbols), rate

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


def high_rate_step(rate_weight: float) -> float:
    """The step of a uniform quantiser that is optimal at high rate, Δ² = 12 λ / ln 2."""
    return math.sqrt(12 * rate_weight / math.log(2))


def choose_quantisation(latents: Tensor, rate_weight: float) -> Quantisation:
    """Steps, gains and tables for `latents` (samples, channels), minimising ½ error² + λ · bits.

    The search starts from the step that is optimal at high rate.
    """
    start = high_rate_step(rate_weight)
    costs, gains, tables = zip(
        *(_cost_at(latents, start * float(r), rate_weight) for r in _STEP_RATIOS),
        strict=True,
    )
    best_cost, best = torch.stack(costs).min(0)
    steps = start * _STEP_RATIOS[best]
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
    sample: Sample,
    rate_weight: float,
) -> Klt:
    """The closed-form codec at λ = `rate_weight` (nats a bit), from statistics alone.

    `sensitivity` (channels, channels) float64; `sample` chooses the steps. Where the moments have a
    context (token, decoded token before), what it predicts linearly is not coded: the transform is
    that of the residual, and the codec gets the prediction as `token_map` and `history`.
    """
    shrinkage, channels = hyperparameters.shrinkage, len(moments.mean)
    covariance, residuals = moments.covariance, sample.values.double() - moments.mean
    prediction = torch.zeros(channels, 0, dtype=torch.float64)
    if moments.context:
        _, backward = whitened_transform(covariance, sensitivity, shrinkage)
        noise = high_rate_step(rate_weight) ** 2 / 12 * backward @ backward.T
        prediction, covariance = _wiener(moments, noise)
        residuals = residuals - sample.context_with_noise(noise) @ prediction.T
    forward, backward = whitened_transform(covariance, sensitivity, shrinkage)
    chosen = choose_quantisation((residuals @ forward.T).float(), rate_weight)
    coded = chosen.coded
    steps = chosen.steps[coded].double()
    shape = {"kept": int(coded.sum()), "vocabulary": len(moments.counts)}
    codec = Klt("klt", channels, hyperparameters, **shape)
    codec.mean.copy_(moments.mean)
    codec.first_mean.copy_(moments.first_mean)
    codec.analysis.copy_(forward[coded] / steps[:, None])
    codec.synthesis.copy_(backward[:, coded] * steps)
    codec.gain.copy_(chosen.gains[coded])
    codec.scale_index.copy_(chosen.tables[coded])
    if hyperparameters.tokens:
        codec.token_density.counts.copy_(moments.counts)
        codec.token_map.copy_(prediction[:, -channels:])
        codec.row_mean.copy_(moments.context.row_mean)
    if moments.context and moments.context.history:
        codec.history = prediction[:, :channels].float()
        codec.sink_energy = SINK_RATIO * moments.covariance.trace().float()
    codec.update()
    return codec


def _wiener(moments: Moments, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The best linear prediction of a token from its context, and the residual's covariance.

    `noise` (channels, channels): covariance of the error of the decoded token before (Wiener 1949).
    """
    context = moments.context
    covariance = context.covariance.clone()
    if context.history:
        covariance[: len(noise), : len(noise)] += noise
    uncertainty = _HISTORY_RIDGE * context.covariance.diagonal().diag()
    if context.rows is not None:
        channels = len(context.rows)
        uncertainty[-channels:, -channels:] = _ROWS_RIDGE * context.rows
    prediction = torch.linalg.solve(covariance + uncertainty, context.cross.T).T
    explained = prediction @ context.cross.T
    residual = moments.covariance - explained - explained.T + prediction @ covariance @ prediction.T
    return prediction, residual
