"""Where to split, from cheap statistics: the rate of every split at a target perplexity.

No codec is fitted. For each split, with covariance Σ and sensitivity G of the representation:

1. the variances ν of the transformed channels, and what scalar quantisers make of them at a λ
   (`rate_distortion.quantiser_rate`), times a small `correction` for channels that are no
   Gaussians;
2. the divergence at that λ: the back runs on representations to which the errors of such a
   quantiser were added, by the Gaussian test channel (Cover and Thomas 2006, §10.3), for a few λ;
3. the λ at which the perplexity rises as wanted, by interpolation, and the rate there.
"""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitcodec.activations.moments import Moments, ordinary_tokens
from splitcodec.activations.store import Activations, Batch
from splitcodec.bounds.rate_distortion import OperatingPoint, quantiser_rate
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import whitened_transform
from splitcodec.errors import InputError
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import compare_heads

SHRINKAGE = KltHyperparameters().shrinkage
LAMBDAS = tuple(float(value) for value in np.geomspace(2e-5, 5e-3, 5))
"""Nats a bit at which the divergence is probed."""
_LEAST_RATE = 1e-9
"""Bits a token that stand for none, of which there is no logarithm."""


@dataclass(frozen=True)
class Statistics:
    """Of one split: means (channels,), the transform and its inverse, variances of its channels."""

    split: int
    mean: Tensor
    first_mean: Tensor
    forward: Tensor
    backward: Tensor
    variances: Tensor
    coded_share: float
    """Share of tokens that cost bits: the first of a sequence has a mean of its own."""


@dataclass(frozen=True)
class Probe:
    """Divergence and rise of cross-entropy, in nats a token, by λ, with the rises' errors."""

    rate_weights: tuple[float, ...]
    kl: np.ndarray
    rise: np.ndarray
    rise_error: np.ndarray


@dataclass(frozen=True)
class Advice:
    """Predicted for one split: λ, and bits a token with a 68 % interval."""

    split: int
    rate_weight: float
    bits_per_token: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """What scalar quantisers on real channels need relative to Gaussian ones; and its spread.

    `correction` multiplies the rate; `spread` is the standard deviation of its logarithm over
    splits; `rise_ratio`: rise of cross-entropy for each nat of divergence, pooled over splits if
    None.
    """

    correction: float
    spread: float
    rise_ratio: float | None = None


def statistics_of(
    split: int, moments: Moments, sensitivity: Tensor, sequence_length: float
) -> Statistics:
    """From the moments of a split and its sensitivity G (channels, channels)."""
    forward, backward = whitened_transform(moments.covariance, sensitivity, SHRINKAGE)
    variances = (forward @ moments.covariance * forward).sum(1).clamp_min(0)
    share = 1 - 1 / sequence_length
    return Statistics(split, moments.mean, moments.first_mean, forward, backward, variances, share)


def rate_at(statistics: Statistics, rate_weight: float) -> float:
    """Bits a token of scalar quantisers on Gaussian channels at λ = `rate_weight`."""
    return statistics.coded_share * quantiser_rate(statistics.variances, rate_weight).bits_per_token


def as_decoded(
    latent: Tensor, variances: Tensor, point: OperatingPoint, generator: torch.Generator
) -> Tensor:
    """What a quantiser decodes of channels (tokens, channels), to second moments.

    The test channel, (1 − d/ν) z + noise of variance d (1 − d/ν), is the best multiple of that.
    """
    kept = 1 - (point.errors / variances.clamp_min(1e-300)).clamp(0, 1)
    noise = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
    return (kept * latent + (kept * point.errors).sqrt() * noise) / point.multiples


@torch.inference_mode()
def probe(
    model: SplitModel,
    activations: Activations,
    references: Activations,
    statistics: Statistics,
    rate_weights: tuple[float, ...] = LAMBDAS,
    sequences: int = 4,
    seed: int = 0,
) -> Probe:
    """Run the back on `sequences` representations with a quantiser's errors, at each λ."""
    activations.check_same_data(references)
    rows = range(min(sequences, len(activations)))
    batch, reference = activations.read(rows), references.read(rows)
    generator = torch.Generator().manual_seed(seed)
    points = [quantiser_rate(statistics.variances, rate_weight) for rate_weight in rate_weights]
    noisy = (_with_errors(batch, statistics, point, generator) for point in points)
    compared = compare_outputs(model, statistics.split, noisy, batch, reference)
    divergences = np.array([float(kl.mean()) for kl, _ in compared])
    rises = np.array([float(rise.mean()) for _, rise in compared])
    errors = np.array([float(rise.std()) / math.sqrt(len(rise)) for _, rise in compared])
    return Probe(rate_weights, divergences, rises, errors)


def _with_errors(
    batch: Batch, statistics: Statistics, point: OperatingPoint, generator: torch.Generator
) -> Tensor:
    """The representation as a quantiser leaves it, a first token as its mean."""
    usable = ordinary_tokens(batch.representation, batch.mask)
    latent = (batch.representation[usable].double() - statistics.mean) @ statistics.forward.T
    latent = as_decoded(latent, statistics.variances, point, generator)
    changed = batch.representation.clone()
    changed[usable] = (latent @ statistics.backward.T + statistics.mean).float()
    changed[:, 0] = statistics.first_mean.float()
    return changed


def compare_outputs(
    model: SplitModel, split: int, changed: Iterable[Tensor], batch: Batch, reference: Batch
) -> list[tuple[Tensor, Tensor]]:
    """Divergence and rise of cross-entropy of every predicted token, each (tokens,), for each of
    the `changed` representations."""
    scored = batch.mask[:, 1:]
    labels = batch.tokens[:, 1:][scored].to(model.device)
    kept = scored.to(model.device)
    uncoded = model.final_states(reference.representation, model.blocks)[:, :-1][kept]
    coded = [model.final_states(own, split)[:, :-1][kept] for own in changed]
    expected = model.logits_of(uncoded, labels)
    found = []
    pairs = zip(coded, compare_heads((model, uncoded), [(model, c) for c in coded]), strict=True)
    for own, compared in pairs:
        rise = expected - model.logits_of(own, labels)
        rise += compared.coded_normaliser - compared.reference_normaliser
        found.append((compared.kl.cpu(), rise.cpu()))
    return found


def rise_ratio(probes: list[Probe]) -> tuple[float, float]:
    """Nats of cross-entropy for each nat of divergence over all probes, and its standard error.

    The divergence is known far better than the rise on few tokens, so one ratio serves all splits.
    """
    ratios = np.array([item.rise.sum() / item.kl.sum() for item in probes])
    weights = np.concatenate([item.kl / item.rise_error**2 for item in probes])
    kl = np.concatenate([item.kl for item in probes])
    rise = np.concatenate([item.rise for item in probes])
    ratio = float((weights * rise).sum() / (weights * kl).sum())
    return ratio, float(ratios.std(ddof=1) / math.sqrt(len(ratios))) if len(ratios) > 1 else ratio


def advise(
    statistics: list[Statistics], probes: list[Probe], target: float, calibration: Calibration
) -> list[Advice]:
    """One line a split, the cheapest first; `target`: relative increase of perplexity.

    A split where the target lies outside what was probed is named on standard error and left out;
    raises InputError where that is so of all.
    """
    ratio, error = rise_ratio(probes)
    if calibration.rise_ratio is not None:
        ratio, error = calibration.rise_ratio, 0.0
    if ratio <= 0:
        raise InputError("the probed cross-entropy does not rise with the divergence; probe more")
    wanted = math.log1p(target) / ratio
    lines, missed = [], []
    for own, probed in zip(statistics, probes, strict=True):
        if not 0 < probed.kl[0] <= wanted <= probed.kl[-1]:
            missed.append(
                f"split {own.split}: a divergence of {wanted:.4f} nats is outside the probed "
                f"{probed.kl[0]:.4f} to {probed.kl[-1]:.4f}"
            )
            continue
        rate_weight = _weight_at(probed, wanted)
        # How the rate follows the divergence: between λ and λ · 1.2, as the probes say.
        bits, nearby = (
            max(calibration.correction * rate_at(own, weight), _LEAST_RATE)
            for weight in (rate_weight, 1.2 * rate_weight)
        )
        slope = math.log(bits / nearby) / math.log(1.2) / _elasticity(probed)
        spread = math.exp(math.hypot(calibration.spread, slope * error / ratio))
        lines.append(Advice(own.split, rate_weight, bits, bits / spread, bits * spread))
    if not lines:
        raise InputError(f"{missed[0]}; choose another target")
    for reason in missed:
        print(f"{reason}; left out", file=sys.stderr)
    return sorted(lines, key=lambda line: line.bits_per_token)


def _weight_at(probed: Probe, kl: float) -> float:
    """λ at a divergence, by interpolation of logarithms."""
    return float(np.exp(np.interp(math.log(kl), np.log(probed.kl), np.log(probed.rate_weights))))


def _elasticity(probed: Probe) -> float:
    """Relative change of the divergence for that of λ, on average over the probes."""
    return float(np.polyfit(np.log(probed.rate_weights), np.log(probed.kl), 1)[0])


@dataclass(frozen=True)
class Devices:
    """Bits a second of the link; tokens a second of the whole model on either device."""

    bandwidth: float
    sender_speed: float
    receiver_speed: float


def latency(advice: Advice, blocks: int, devices: Devices) -> float:
    """Seconds a token of front, link and back; time is taken as even over the blocks."""
    share = advice.split / blocks
    compute = share / devices.sender_speed + (1 - share) / devices.receiver_speed
    return compute + advice.bits_per_token / devices.bandwidth


def break_even_bandwidth(advice: Advice, blocks: int, devices: Devices) -> float:
    """Bits a second above which splitting beats the whole model on the sender; may be infinite."""
    saved = (1 - advice.split / blocks) * (1 / devices.sender_speed - 1 / devices.receiver_speed)
    return advice.bits_per_token / saved if saved > 0 else math.inf
