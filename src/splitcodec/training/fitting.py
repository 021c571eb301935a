"""Fits a codec on stored activations: closed form, then gradient steps where the codec learns.

Two phases. *fit*: the networks learn to predict the latent, minimising the rate alone, since with
transform and steps fixed the distortion is fixed. *polish*: everything learns, minimising the
divergence through the frozen back plus λ · rate; the validation partition then chooses between
the codec before and after. Each run is repeatable: sampling is a function of seed and step alone,
and a checkpoint holds all else, so that a killed run continues to the same result.
"""

import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.activations.store import Activations, Batch
from splitcodec.codecs.base import Codec
from splitcodec.codecs.hyperparameters import KltHyperparameters, TrainedHyperparameters
from splitcodec.codecs.klt import Klt, fit_klt
from splitcodec.codecs.registry import build_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.errors import TrainingError
from splitcodec.files import atomic_path
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import divergence

_WARM_UP = 0.1
_CHECKPOINT_SECONDS = 30.0
_LOG_EVERY = 5
_VALIDATION_BATCH = 2


@dataclass
class TrainingData:
    """What a codec may learn from.

    Stored representations; how sensitive the back is to them; and for polishing the references
    (stores of the final representation), the validation store with its references, the model.
    """

    activations: Activations
    sensitivity: Tensor
    split: int
    references: Activations | None = None
    validation: tuple[Activations, Activations] | None = None
    model: SplitModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the codec learns: with the model, if there is one."""
        return self.model.device if self.model else torch.device("cpu")


@dataclass
class Log:
    """Training history, one entry a logged step."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    def text(self) -> str:
        """JSON lines."""
        return "".join(json.dumps(entry) + "\n" for entry in self.entries)


def fit_closed_form(
    hyperparameters: KltHyperparameters, data: TrainingData, rate_weight: float, seed: int
) -> Klt:
    """The sensitivity-weighted KLT at λ = `rate_weight`."""
    embedding = data.model.embedding if hyperparameters.tokens else None
    history = getattr(hyperparameters, "history", False)
    moments = moments_of(data.activations, history=history, embedding=embedding)
    sample = sample_tokens(data.activations, hyperparameters.samples, seed, moments, embedding)
    return fit_klt(hyperparameters, moments, data.sensitivity, sample, rate_weight)


def fit_from_klt(
    name: str,
    hyperparameters: TrainedHyperparameters,
    data: TrainingData,
    rate_weight: float,
    seed: int,
    checkpoint: Path,
) -> tuple[TransformCodec, Log]:
    """A codec started from the KLT; resumes from `checkpoint` if it is there."""
    torch.manual_seed(seed)
    klt = fit_closed_form(hyperparameters, data, rate_weight, seed)
    codec = build_codec(name, klt.channels, hyperparameters.model_dump(), kept=klt.kept)
    codec.start_from(klt)
    fitting = Fitting(codec, hyperparameters, data, rate_weight, seed, checkpoint)
    fitting.run()
    codec.cpu().update()
    return codec.eval(), fitting.log


def fit_klt_codec(
    hyperparameters: KltHyperparameters,
    data: TrainingData,
    rate_weight: float,
    seed: int,
    checkpoint: Path,
) -> tuple[Klt, Log]:
    """The closed form alone: nothing to log, nothing to resume."""
    return fit_closed_form(hyperparameters, data, rate_weight, seed), Log()


FITTERS: dict[str, Callable[..., tuple[Codec, Log]]] = {
    "klt": fit_klt_codec,
    **{name: partial(fit_from_klt, name) for name in ("factorised", "hyperprior", "direct-access")},
}
"""How each learned codec is fitted: (hyper-parameters, data, λ, seed, checkpoint) to codec, log."""


class Fitting:
    """The loop over both phases, with its optimiser, log and checkpoint."""

    def __init__(
        self,
        codec: TransformCodec,
        hyperparameters: TrainedHyperparameters,
        data: TrainingData,
        rate_weight: float,
        seed: int,
        checkpoint: Path,
    ) -> None:
        self.codec = codec.to(data.device)
        self.settings = hyperparameters
        self.data = data
        self.rate_weight = rate_weight
        self.seed = seed
        self.checkpoint = checkpoint
        self.log = Log()
        self._saved = time.monotonic()
        self._before: tuple[float, dict[str, Tensor]] | None = None

    def run(self) -> None:
        """Both phases, from the checkpoint or the start."""
        resumed = self._load()
        if resumed.get("phase") != "polish":
            self._run_phase("fit", self.settings.steps, self._rate_loss, resumed)
            resumed = {}
        if self.settings.polish_steps:
            self._polish(resumed)
        self.checkpoint.unlink(missing_ok=True)

    def _polish(self, resumed: dict[str, Any]) -> None:
        """The second phase, undone if it does not pay on the validation partition."""
        self._before = resumed.get("before") or (self._validate("fit"), _copy_of(self.codec))
        self._run_phase("polish", self.settings.polish_steps, self._full_loss, resumed)
        objective, state = self._before
        if not self._validate("polish") <= objective:  # nor if it is not a number
            self.codec.load_state_dict(state)

    @torch.no_grad()
    def _validate(self, phase: str) -> float:
        """Divergence + λ · rate on the validation partition, with real rounding."""
        self.codec.eval()
        stores = [store.batches(_VALIDATION_BATCH) for store in self.data.validation]
        sums = torch.zeros(3, dtype=torch.float64)
        for batch, reference in zip(*stores, strict=True):
            rate, distortion = self._rate_and_distortion(batch, reference)
            tokens = int(batch.lengths.sum())
            sums += torch.tensor([rate.item() * tokens, distortion.item() * tokens, tokens])
        rate, distortion = (sums[:2] / sums[2]).tolist()
        objective = distortion + self.rate_weight * rate
        figures = {"loss": objective, "bits_per_token": rate, "distortion": distortion}
        self.log.entries.append({"phase": f"validation after {phase}", "step": 0, **figures})
        return objective

    def _run_phase(self, phase: str, steps: int, loss: Callable, resumed: dict[str, Any]) -> None:
        optimiser = torch.optim.AdamW(self._groups(phase), betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _cosine(step, steps))
        parts = {"codec": self.codec, "optimiser": optimiser, "schedule": schedule}
        if resumed:
            self.log.entries = resumed["log"]
            for name, part in parts.items():
                part.load_state_dict(resumed[name])
        first = resumed.get("step", 0)
        learnt = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        self.codec.train()
        for step in progress(range(first, steps), phase):
            # Noise is a function of seed and step, so that a resumed run repeats it.
            torch.manual_seed(hash((self.seed, phase == "polish", step)) % 2**31)
            self.codec.zero_grad(set_to_none=True)
            value, figures = loss(step)
            self._check(value, phase, step)
            value.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimiser.step()
            schedule.step()
            if step % _LOG_EVERY == 0 or step == steps - 1:
                entry = {"phase": phase, "step": step, "loss": value.item(), **figures}
                self.log.entries.append(entry)
            self._save(phase, step + 1, parts)
        self.codec.eval()

    def _groups(self, phase: str) -> list[dict[str, Any]]:
        """Parameter groups with their peak rates; transforms move in polishing only."""
        transforms = [self.codec.analysis, self.codec.synthesis]
        priors = self.codec.priors()
        known = {id(p) for p in [*transforms, *priors]}
        networks = [p for p in self.codec.parameters() if id(p) not in known]
        rate = self.settings.learning_rate
        groups = [{"params": networks, "lr": rate}, {"params": priors, "lr": 5 * rate}]
        if phase == "polish":
            # Relative to the size of the entries, and to the quantiser's step, which grows with
            # √λ: what is small against rounding at high λ would drown a fine quantiser.
            relative = self.settings.transform_learning_rate * math.sqrt(self.rate_weight)
            for matrix in transforms:
                size = float(matrix.detach().square().mean().sqrt())
                groups.append({"params": [matrix], "lr": relative * size})
        return groups

    def _rate_loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = self._batch(step, self.settings.batch_tokens, self.data.activations)
        estimate = self.codec(batch.representation, batch.lengths)
        rate = estimate.bits.sum() / batch.lengths.sum()
        return rate + self.codec.penalty(), {"bits_per_token": rate.item()}

    def _full_loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        tokens = self.settings.polish_batch_tokens
        batch = self._batch(step, tokens, self.data.activations)
        reference = self._batch(step, tokens, self.data.references)
        rate, distortion = self._rate_and_distortion(batch, reference)
        loss = distortion + self.rate_weight * (rate + self.codec.penalty())
        return loss, {"bits_per_token": rate.item(), "distortion": distortion.item()}

    def _rate_and_distortion(self, batch: Batch, reference: Batch) -> tuple[Tensor, Tensor]:
        """Bits a token and divergence in nats a token, differentiable."""
        batch = batch.to(self.data.device)
        estimate = self.codec(batch.representation, batch.lengths)
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
        longest = max(activations.lengths)
        count = max(1, min(len(activations), round(tokens / longest)))
        order = _order(len(activations), self.seed, step * count // len(activations))
        start = step * count % len(activations)
        chosen = [order[(start + i) % len(order)] for i in range(count)]
        return activations.read(chosen).to(self.data.device)

    def _check(self, loss: Tensor, phase: str, step: int) -> None:
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"{phase} diverged at step {step} (λ {self.rate_weight:g}, seed {self.seed}): the "
                "loss is not finite; lower learning_rate or transform_learning_rate"
            )

    def _save(self, phase: str, step: int, parts: dict[str, Any]) -> None:
        if time.monotonic() - self._saved < _CHECKPOINT_SECONDS:
            return
        state = {name: part.state_dict() for name, part in parts.items()}
        with atomic_path(self.checkpoint) as temporary:
            own = {"recipe": self._recipe(), "phase": phase, "step": step}
            torch.save({**own, "log": self.log.entries, "before": self._before, **state}, temporary)
        self._saved = time.monotonic()

    def _recipe(self) -> str:
        """What a checkpoint must have been made for to be of use here."""
        metadata = self.data.activations.metadata
        source = [metadata[key] for key in ("data_hash", "model_hash")] + [self.data.split]
        parts = [self.settings.model_dump(), self.rate_weight, self.seed, self.codec.kept]
        return json.dumps(source + parts)

    def _load(self) -> dict[str, Any]:
        """The checkpoint, or nothing when there is none of this recipe."""
        if not self.checkpoint.is_file():
            return {}
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.data.device)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"checkpoint {self.checkpoint} cannot be read ({type(error).__name__}); "
                "delete it to train from the start"
            ) from None
        return state if state.get("recipe") == self._recipe() else {}


def _cosine(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to a tenth."""
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _copy_of(codec: Codec) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in codec.state_dict().items()}


def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
