"""Fits a codec on stored activations: closed form, then gradient steps where the codec learns.

Two phases. *fit*: the networks learn to predict the latent, minimising the rate alone, since with
transform and steps fixed the distortion is fixed. *polish*: everything learns, minimising the
divergence through the frozen back plus λ · rate; the validation partition then chooses between
the codec before and after. A codec for several λ sees them in turn, at levels that fit them, and
its losses are weighted so that each λ counts alike.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitcodec.activations.moments import (
    Moments,
    Sample,
    moments_of,
    ordinary_tokens,
    sample_tokens,
)
from splitcodec.activations.store import Activations, Batch
from splitcodec.codecs.base import Codec
from splitcodec.codecs.catalogue import middle
from splitcodec.codecs.direct_access import DirectAccess
from splitcodec.codecs.hyperparameters import (
    DirectAccessHyperparameters,
    KltHyperparameters,
    TrainedHyperparameters,
    TrellisHyperparameters,
)
from splitcodec.codecs.klt import Klt, fit_klt
from splitcodec.codecs.levels import Known
from splitcodec.codecs.registry import build_codec
from splitcodec.codecs.search import LONGEST
from splitcodec.codecs.transform import TransformCodec
from splitcodec.codecs.trellis import Trellis
from splitcodec.devices import device, first_process
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import divergence
from splitcodec.training.log import Figures, Log
from splitcodec.training.loop import Loop, Phase, recipe_of, sequences_of_step
from splitcodec.training.sensitivity import Sensitivity

_WARM_UP = 0.1
_VALIDATION_BATCH = 2
_MANY_SINKS = 1e-3
"""Of all tokens; the embedded model has one in 57,000."""
_TRELLIS_TOKENS = 1 << 14
_LIMITS = (1.0, 1.1, 1.25, LONGEST)
"""Longer is better where λ is high: what is lost along the signal then costs more than noise."""
_LARGEST_CHANGE = 0.02
"""Peak learning rate of a transform, relative to the size of its entries, at any λ."""


@dataclass
class TrainingData:
    """What a codec may learn from.

    Stored representations; how sensitive the back is to them; and for polishing the references
    (stores of the final representation), the validation store with its references, the model.
    """

    activations: Activations
    sensitivity: Sensitivity
    split: int
    references: Activations | None = None
    validation: tuple[Activations, Activations] | None = None
    model: SplitModel | None = None
    start: TransformCodec | None = None
    """What the codec is before its trellis, if that has been trained."""
    sources: list[str] = field(default_factory=list)
    """Hashes of what else decides the result: a checkpoint of other material is not used."""

    @property
    def device(self) -> torch.device:
        """Where the codec learns: with the model, if there is one."""
        return self.model.device if self.model else device()


def fit_closed_form(
    hyperparameters: KltHyperparameters,
    data: TrainingData,
    rate_weights: Sequence[float],
    seed: int,
) -> Klt:
    """The sensitivity-weighted KLT at one λ, or several."""
    return _closed_form(
        hyperparameters, data, rate_weights, *_statistics(hyperparameters, data, seed)
    )


def _statistics(
    hyperparameters: KltHyperparameters, data: TrainingData, seed: int
) -> tuple[Moments, Sample]:
    """What the closed form needs to know of the training partition."""
    embedding = data.model.embedding if hyperparameters.tokens else None
    history = getattr(hyperparameters, "history", False)
    moments = moments_of(data.activations, history=history, embedding=embedding)
    if moments.sinks > _MANY_SINKS * moments.tokens and first_process():
        print(
            f"warning: sinks (massive activations) are {moments.sinks} of "
            f"{moments.sinks + moments.tokens} tokens; what these have outside of the coded "
            "channels will be lost",
            file=sys.stderr,
        )
    return moments, sample_tokens(
        data.activations, hyperparameters.samples, seed, moments, embedding
    )


def _closed_form(
    hyperparameters: KltHyperparameters,
    data: TrainingData,
    rate_weights: Sequence[float],
    moments: Moments,
    sample: Sample,
) -> Klt:
    found = data.sensitivity
    return fit_klt(hyperparameters, moments, found.matrix, sample, rate_weights, found.weights)


def fit_from_klt(
    name: str,
    hyperparameters: TrainedHyperparameters,
    data: TrainingData,
    rate_weights: Sequence[float],
    seed: int,
    checkpoint: Path,
    log: Log,
) -> TransformCodec:
    """A codec started from the KLT; resumes from `checkpoint` if it is there."""
    torch.manual_seed(seed)
    klt = fit_closed_form(hyperparameters, data, rate_weights, seed)
    codec = _attached(start(name, hyperparameters, klt), data)
    Fitting(codec, hyperparameters, data, rate_weights, seed).run(checkpoint, log)
    codec.cpu().update()
    return codec.eval()


def fit_direct_access(
    hyperparameters: DirectAccessHyperparameters,
    data: TrainingData,
    rate_weights: Sequence[float],
    seed: int,
    checkpoint: Path,
    log: Log,
) -> DirectAccess:
    """Trained as all are; then, where one is asked for, with the trellis, which has no gradient."""
    plain = hyperparameters.model_copy(update={"trellis": False})
    arguments = plain, data, rate_weights, seed, checkpoint, log
    learned = data.start or fit_from_klt("direct-access", *arguments)
    if not hyperparameters.trellis:
        return learned
    codec = build_codec(
        learned.name,
        learned.channels,
        hyperparameters.model_dump(),
        **DirectAccess.shape_of_state(learned.state_dict()),
    )
    codec.load_state_dict(learned.state_dict(), strict=False)
    codec.update()
    Fitting(_attached(codec.eval(), data), plain, data, rate_weights, seed).put_trellis(log)
    codec.cpu().update()
    return codec


def start(name: str, hyperparameters: KltHyperparameters, klt: Klt) -> TransformCodec:
    """A codec that has learnt nothing beyond the closed form."""
    shape = Klt.shape_of_state(klt.state_dict())
    codec = build_codec(name, klt.channels, hyperparameters.model_dump(), **shape)
    codec.start_from(klt)
    codec.update()
    return codec


def fit_klt_codec(
    hyperparameters: KltHyperparameters,
    data: TrainingData,
    rate_weights: Sequence[float],
    seed: int,
    checkpoint: Path,
    log: Log,
) -> Klt:
    """The closed form alone: nothing to log, nothing to resume."""
    return _attached(fit_closed_form(hyperparameters, data, rate_weights, seed), data)


def fit_trellis(
    hyperparameters: TrellisHyperparameters,
    data: TrainingData,
    rate_weights: Sequence[float],
    seed: int,
    checkpoint: Path,
    log: Log,
) -> Trellis:
    """The closed form, then its trellis from the same tokens: nothing to resume."""
    moments, sample = _statistics(hyperparameters, data, seed)
    klt = _closed_form(hyperparameters, data, rate_weights, moments, sample)
    codec = start("trellis", hyperparameters, klt)
    deviation = sample.values - codec.mean
    if codec.sends_tokens:
        deviation -= sample.context @ codec.token_map.T
    log.start([])
    longer = codec.fit(deviation, data.sensitivity.matrix, rate_weights[0])
    fitting = Fitting(_attached(codec.eval(), data), hyperparameters, data, rate_weights, seed)
    fitting.choose_length(codec.synthesis, longer.to(data.device), log)
    return codec.cpu()


def _attached(codec: TransformCodec, data: TrainingData) -> TransformCodec:
    """The codec, with the head of the model if it sends token ids."""
    if codec.sends_tokens:
        codec.attach(data.model.embedding)
    return codec


FITTERS: dict[str, Callable[..., Codec]] = {
    "klt": fit_klt_codec,
    "trellis": fit_trellis,
    "direct-access": fit_direct_access,
    **{name: partial(fit_from_klt, name) for name in ("factorised", "hyperprior")},
}
"""How a codec is fitted: (hyper-parameters, data, every λ, seed, checkpoint, log) to codec."""


class Fitting:
    """The losses and parameter groups of both phases."""

    def __init__(
        self,
        codec: TransformCodec,
        hyperparameters: KltHyperparameters,
        data: TrainingData,
        rate_weights: Sequence[float],
        seed: int,
    ) -> None:
        self.codec = codec.to(data.device)
        self.settings = hyperparameters
        self.data = data
        self.rate_weights = rate_weights
        self.rate_weight = middle(rate_weights)
        self.seed = seed

    def run(self, checkpoint: Path, log: Log) -> None:
        """Both phases, from the checkpoint or the start."""
        settings, activations = self.settings, self.data.activations
        fit = Phase(
            "fit",
            settings.steps,
            _warm_up(settings.steps),
            lambda: codec_groups(self.codec),
            self._rate_loss,
            tokens=settings.batch_tokens,
        )
        polish = Phase(
            "polish",
            settings.polish_steps,
            _warm_up(settings.polish_steps),
            lambda: codec_groups(self.codec) + transform_groups(self.codec, self.rate_weight),
            self._full_loss,
            tokens=settings.polish_batch_tokens,
            validate=self._validate,
        )
        recipe = recipe_of(
            data=[activations.metadata[key] for key in ("data_hash", "model_hash")],
            sources=self.data.sources,
            dtypes=[activations.metadata["dtype"], str(self.data.model and self.data.model.dtype)],
            split=self.data.split,
            settings=settings.model_dump(),
            λ=self.rate_weights[0] if len(self.rate_weights) == 1 else self.rate_weights,
            seed=self.seed,
            kept=self.codec.kept,
        )
        phases = [fit, polish] if settings.polish_steps else [fit]
        Loop(self.codec, phases, self.seed, recipe, checkpoint, log).run()
        self._turn_to(None)

    @torch.no_grad()
    def put_trellis(self, log: Log) -> None:
        """Quantise with a trellis from now on, of several λ on every so many sequences."""
        batch = self._batch(0, _TRELLIS_TOKENS, self.data.activations)
        means, offsets = self.codec.means(batch.tokens, batch.representation.shape[1])
        levels = []
        for turn, sequence in enumerate(batch.representation):
            self._turn_to(turn)
            levels.append(self.codec.choose_levels(sequence[None]))
        self._turn_to(None)
        longer = self.codec.put_trellis(
            batch.representation - means,
            Known(offsets, torch.cat(levels) if self.codec.levels else None),
            ordinary_tokens(batch.representation, batch.mask),
            self.data.sensitivity.matrix.to(means.device),
            self.rate_weight,
        )
        self.choose_length(self.codec.table_gain, longer, log)

    @torch.no_grad()
    def choose_length(self, multiples: Tensor, longer: Tensor, log: Log) -> None:
        """Decode what weighing bits has shrunk as much longer as validation likes.

        `multiples` of the codec are `longer` now, and become so at most.
        """
        shortest, losses = multiples / longer, {}
        for step, most in enumerate(_LIMITS):
            multiples.copy_(shortest * longer.clamp(max=most))
            figures = self._validate()
            log.note("trellis_validation", step, longest=most, **figures)
            losses[most] = figures["loss"] if math.isfinite(figures["loss"]) else math.inf
        best = min(losses, key=losses.get)
        multiples.copy_(shortest * longer.clamp(max=best))

    def _turn_to(self, turn: int | None) -> float:
        """Let the codec code at the λ whose turn it is, or at the middle; returns that λ."""
        if len(self.rate_weights) == 1:
            return self.rate_weight
        chosen = self.rate_weights[turn % len(self.rate_weights)] if turn is not None else None
        self.codec.levels.set_rate((chosen or self.rate_weight) / self.rate_weight)
        return chosen or self.rate_weight

    def _rate_loss(self, step: int, _: int) -> tuple[Tensor, Figures]:
        self._turn_to(step)
        batch = self._batch(step, self.settings.batch_tokens, self.data.activations)
        estimate = self.codec(batch.representation, batch.lengths, batch.tokens)
        rate = estimate.bits.sum() / batch.lengths.sum()
        return rate + self.codec.penalty(), {"bits_per_token": rate.item()}

    def _full_loss(self, step: int, _: int) -> tuple[Tensor, Figures]:
        rate_weight = self._turn_to(step)
        tokens = self.settings.polish_batch_tokens
        batch = self._batch(step, tokens, self.data.activations)
        reference = self._batch(step, tokens, self.data.references)
        rate, distortion = self._rate_and_distortion(batch, reference)
        distortion = distortion * self.rate_weight / rate_weight
        loss = distortion + self.rate_weight * (rate + self.codec.penalty())
        return loss, {"bits_per_token": rate.item(), "distortion": distortion.item()}

    def _validate(self) -> Figures:
        """Divergence + λ · rate on the validation partition, with real rounding; mean of all λ."""
        stores = [store.batches(_VALIDATION_BATCH) for store in self.data.validation]
        sums = torch.zeros(3, dtype=torch.float64)
        for batch, reference in zip(*stores, strict=True):
            tokens = int(batch.lengths.sum())
            for turn in range(len(self.rate_weights)):
                weight = self.rate_weight / self._turn_to(turn)
                rate, distortion = self._rate_and_distortion(batch, reference)
                own = [rate.item() * tokens, weight * distortion.item() * tokens, tokens]
                sums += torch.tensor(own, dtype=torch.float64)
        self._turn_to(None)
        rate, distortion = (sums[:2] / sums[2]).tolist()
        objective = distortion + self.rate_weight * rate
        return {"loss": objective, "bits_per_token": rate, "distortion": distortion}

    def _rate_and_distortion(self, batch: Batch, reference: Batch) -> tuple[Tensor, Tensor]:
        """Bits a token and divergence in nats a token, differentiable."""
        batch = batch.to(self.data.device)
        estimate = self.codec(batch.representation, batch.lengths, batch.tokens)
        rate = estimate.bits.sum() / batch.lengths.sum()
        distortion = divergence(
            self.data.model,
            self.data.split,
            estimate.reconstruction,
            reference.representation,
            batch.mask,
        )
        return rate, distortion

    def _batch(self, step: int, tokens: int, activations: Activations) -> Batch:
        """The sequences of a step: the same for representation and reference."""
        longest = max(self.data.activations.lengths)
        count = max(1, min(len(activations), round(tokens / longest)))
        chosen = sequences_of_step(len(activations), count, self.seed, step)
        return activations.read(chosen).to(self.data.device)


def codec_groups(codec: TransformCodec) -> list[dict[str, Any]]:
    """Networks and priors of a codec, with their peak rates."""
    priors = codec.priors()
    known = {id(parameter) for parameter in [*priors, *codec.linear_maps()]}
    networks = [parameter for parameter in codec.parameters() if id(parameter) not in known]
    rate = codec.hyperparameters.learning_rate
    return [{"params": networks, "lr": rate}, {"params": priors, "lr": 5 * rate}]


def transform_groups(codec: TransformCodec, rate_weight: float) -> list[dict[str, Any]]:
    """The transforms of a codec, with their peak rates.

    Relative to the size of the entries and to λ: what is small against coarse rounding would drown
    a fine quantiser, and there is less to win. On the embedded model the best rate was 0.001 at
    λ 5e-5 and 0.01 at 2.5e-4.
    """
    relative = min(codec.hyperparameters.transform_learning_rate * rate_weight, _LARGEST_CHANGE)
    return [
        {"params": [matrix], "lr": relative * float(matrix.detach().square().mean().sqrt())}
        for matrix in codec.linear_maps()
        if matrix.requires_grad
    ]


def _warm_up(steps: int) -> int:
    return max(1, round(_WARM_UP * steps))
