"""Sensitivity-weighted Karhunen–Loève transform with one Gaussian a channel: the closed form.

To second order the divergence that an error e of the representation causes is ½ eᵀ G e nats,
with G the Fisher information of the model's output with respect to the representation. In the
coordinates z = Uᵀ G^½ (y − μ), with U from the eigenvectors of G^½ Σ G^½, that is ½‖z − ẑ‖², and
the channels are uncorrelated: each gets its own uniform step and scale (`allocation`), or none. No
gradient training.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from splitcodec.activations.moments import SINK_RATIO, Moments, Sample
from splitcodec.codecs.allocation import REACH, Quantisation, choose_quantisation, high_rate_step
from splitcodec.codecs.catalogue import middle
from splitcodec.codecs.channelwise import ChannelwiseCodec
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.levels import TABLES_A_LEVEL, Known, TokenWeights, in_steps
from splitcodec.densities.location_scale import SCALES, Gaussian, scale_indexes, table_scales

_MOST_SENSITIVE = 2.0
"""Channels are coded that are worth it for a token of so many times the mean sensitivity."""
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

    def estimate(self, deviation: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """Rate under the table scales."""
        symbols = in_steps(self.latent(deviation), known.steps).round()
        positions = self.positions(known)
        rate = self.gaussian.bits(symbols, self.scales(positions).to(symbols)).sum(-1)
        increment = self.increment(symbols, positions, known)
        return self.reconstruct(increment.to(symbols)), rate

    def scales(self, positions: Tensor | None = None) -> Tensor:
        """The standard deviation of each channel in steps of level zero, (kept,) float64.

        With `positions` of tokens among the coding tables, in the steps of those tokens.
        """
        positions = self.scale_index.long() if positions is None else positions
        return table_scales().to(positions.device)[positions]


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
    rate_weight: float | Sequence[float],
    weights: TokenWeights | None = None,
) -> Klt:
    """The closed-form codec at λ = `rate_weight` (nats a bit), from statistics alone.

    `sensitivity` (channels, channels) float64; `sample` chooses the steps. With the hyper-parameter
    `levels` the codec needs `weights`, may be for several λ, and starts at their geometric mean:
    level zero has the steps of that one. Where the moments have a
    context (token, decoded token before), what it predicts linearly is not coded: the transform is
    that of the residual, and the codec gets the prediction as `token_map` and `history`.
    """
    several = [rate_weight] if isinstance(rate_weight, float) else list(rate_weight)
    rate_weight, shrinkage = middle(several), hyperparameters.shrinkage
    prediction, covariance, residuals = _unpredicted(
        moments, sensitivity, sample, high_rate_step(rate_weight), shrinkage
    )
    transform = whitened_transform(covariance, sensitivity, shrinkage)
    latents = (residuals @ transform[0].T).float()
    chosen = choose_quantisation(latents, rate_weight)
    if hyperparameters.levels:
        finest = choose_quantisation(latents, min(several) / _MOST_SENSITIVE)
        chosen = replace(chosen, coded=finest.coded)
    codec = _with_transform(hyperparameters, moments, transform, chosen)
    if moments.context:
        _set_prediction(codec, moments, prediction)
    if hyperparameters.levels:
        codec.levels.start_from(weights)
        symbols = latents[:, chosen.coded] / chosen.steps[chosen.coded]
        _fit_levels(codec, symbols, sample.values, [own / rate_weight for own in several])
    codec.update()
    return codec


def _unpredicted(
    moments: Moments, sensitivity: Tensor, sample: Sample, step: float, shrinkage: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The prediction of a token from its context, and what it leaves: covariance, and `sample`.

    The decoded token before has the error of uniform quantisers of `step`.
    """
    deviations = sample.values.double() - moments.mean
    if not moments.context:
        none = torch.zeros(len(moments.mean), 0, dtype=torch.float64)
        return none, moments.covariance, deviations
    _, backward = whitened_transform(moments.covariance, sensitivity, shrinkage)
    noise = step**2 / 12 * backward @ backward.T
    prediction, covariance = _wiener(moments, noise)
    return prediction, covariance, deviations - sample.context_with_noise(noise) @ prediction.T


def _with_transform(
    hyperparameters: KltHyperparameters,
    moments: Moments,
    transform: tuple[Tensor, Tensor],
    chosen: Quantisation,
) -> Klt:
    """A codec of the channels that are coded; `transform` is a pair of `whitened_transform`."""
    (forward, backward), coded = transform, chosen.coded
    steps = chosen.steps[coded].double()
    shape = {"kept": int(coded.sum()), "vocabulary": len(moments.counts)}
    codec = Klt("klt", len(moments.mean), hyperparameters, **shape)
    codec.mean.copy_(moments.mean)
    codec.first_mean.copy_(moments.first_mean)
    codec.analysis.copy_(forward[coded] / steps[:, None])
    codec.synthesis.copy_(backward[:, coded] * steps)
    codec.scale_index.copy_(chosen.tables[coded])
    return codec


def _set_prediction(codec: Klt, moments: Moments, prediction: Tensor) -> None:
    """Give the codec what its context tells: `prediction` (channels, history and row of the id)."""
    channels = len(moments.mean)
    if codec.sends_tokens:
        codec.token_density.counts.copy_(moments.counts)
        codec.token_map.copy_(prediction[:, -channels:])
        codec.row_mean.copy_(moments.context.row_mean)
    if moments.context.history:
        codec.history = prediction[:, :channels].float()
        codec.sink_energy = SINK_RATIO * moments.covariance.trace().float()


def _fit_levels(codec: Klt, latents: Tensor, values: Tensor, ratios: list[float]) -> None:
    """Tables of latents (samples, kept) in steps, of tokens that choose their levels.

    `values` (samples, channels) are the tokens. `ratios`: of each λ to that of level zero.
    """
    rates = torch.zeros(codec.kept, SCALES)
    bits, every = Gaussian().table_bits(REACH).float(), torch.arange(SCALES)
    chosen = []
    for ratio in ratios:
        codec.levels.set_rate(ratio)
        chosen.append(Known(values, codec.levels.choose(values)[:, None]))
    codec.levels.set_rate(1.0)
    codec.levels.count(values)
    symbols = [in_steps(latents, known.steps).round() for known in chosen]
    for known, own in zip(chosen, symbols, strict=True):
        for level in known.levels.unique().tolist():
            here = own[known.levels[:, 0] == level]
            shifted = (every - TABLES_A_LEVEL * level).clamp(0, SCALES - 1)
            rates += len(here) * (_histograms(here) @ bits[shifted].T)
    codec.scale_index.copy_(rates.argmin(-1))


def _histograms(symbols: Tensor) -> Tensor:
    """Frequencies of the integers -reach … reach in each channel, (channels, 2·reach+1)."""
    samples, channels = symbols.shape
    width = 2 * REACH + 1
    cells = symbols.clamp(-REACH, REACH).long() + REACH + width * torch.arange(channels)
    counts = torch.bincount(cells.flatten(), minlength=width * channels)
    return counts.view(channels, width).float() / samples


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
