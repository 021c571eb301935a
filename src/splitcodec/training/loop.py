"""The training loop of everything that learns by gradients: codecs, models, both together.

A run is a list of phases. It is repeatable: which sequences a step takes and what noise it draws
follow from seed and step alone, and a checkpoint holds all else, so that a killed run continues to
the same result. Several processes (torchrun) share a step where a phase's loss does; only the
first of them writes.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from splitcodec.errors import TrainingError
from splitcodec.progress import progress
from splitcodec.training.checkpoint import load_checkpoint, save_checkpoint
from splitcodec.training.log import Figures, Log

if TYPE_CHECKING:  # what learns in closed form, or not at all, need not import it
    from accelerate import Accelerator

_CHECKPOINT_SECONDS = 30.0
_CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into checkpoints
_RECENT, _BEFORE = 10, 50
_EXPLODED = 3.0
_WORSE = 1.0
"""Nats above where it began at which what is validated has diverged: a model that has forgotten
all says every token alike, and may lose no more than three."""


class BatchLoss(NamedTuple):
    """The mean loss of a batch, figures for the log, and the tokens by which it weighs."""

    loss: Tensor
    figures: Figures
    weight: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A stretch of gradient steps with an optimiser of its own.

    `groups` are parameter groups with their peak rates `lr`; `loss(step, batch)` gives the parts of
    a `BatchLoss`, of one of a step's `batches`; `tokens` are how many a step sees. With
    `validate` (figures of which `loss` is the objective, in nats) the best validated state is kept,
    that before the first step included; after `patience` validations without gain the phase ends.
    `parallel` is the module as several processes share it.
    """

    name: str
    steps: int
    warm_up: int
    groups: Callable[[], list[dict[str, Any]]]
    loss: Callable[[int, int], tuple]
    tokens: int
    batches: int = 1
    gradient_clip: float = 1.0
    log_every: int = 5
    validate: Callable[[], Figures] | None = None
    validate_every: int = 0
    patience: int = 0
    parallel: nn.Module | None = None


@dataclass
class _Progress:
    """Where a phase stands, apart from weights and optimiser."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    first: float = math.inf
    best: float = math.inf
    best_state: dict[str, Tensor] | None = None
    without_gain: int = 0


class Loop:
    """Runs phases that train the parameters of `module`, with log and checkpoint.

    `recipe` names what is trained: a checkpoint of another is not used. `accelerator` shares the
    work where the losses were made for it; without one, each of several processes does all of it.
    Raises TrainingError when a loss diverges.
    """

    def __init__(
        self,
        module: nn.Module,
        phases: list[Phase],
        seed: int,
        recipe: str,
        checkpoint: Path,
        log: Log,
        accelerator: "Accelerator | None" = None,
    ) -> None:
        self.module = module
        self.phases = phases
        self.seed = seed
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.log = log
        self._shared = accelerator is not None
        self.accelerator = accelerator or accelerator_for(next(module.parameters()).device)
        self._saved = time.monotonic()
        self._save_seconds = 0.0

    @property
    def _several(self) -> bool:
        """Whether processes share the work."""
        return self._shared and self.accelerator.num_processes > 1

    def run(self) -> None:
        """All phases, from the checkpoint or the start; the checkpoint then holds the result."""
        resumed = self._load()
        self.log.start(resumed.get("log", []))
        self.log.go_on(resumed.get("seconds", 0.0))
        if resumed:
            self.module.load_state_dict(resumed["module"], strict=False)
        first = resumed.get("phase", 0)
        with tensor_float32(self.accelerator.device):
            for number in range(first, len(self.phases)):
                self._run(number, resumed if number == first else {})
        if first < len(self.phases):
            self._write({"phase": len(self.phases)})
        self.module.eval()

    def _run(self, number: int, resumed: dict[str, Any]) -> None:
        phase = self.phases[number]
        groups = [group | {"peak": group["lr"]} for group in phase.groups()]
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
        state = _Progress(**resumed.get("progress", {}))
        if "optimiser" in resumed:
            optimiser.load_state_dict(resumed["optimiser"])
        else:
            self._validate(phase, state)
        self.module.train()
        timer, timed = time.monotonic(), state.step
        for step in progress(range(state.step, phase.steps), phase.name, self.log.last_figures):
            value, figures = self._step(number, step, optimiser)
            self._check(phase, step, value, state)
            if step % phase.log_every == 0 or step == phase.steps - 1:
                now = time.monotonic()
                speed = round((step + 1 - timed) * phase.tokens / max(now - timer, 1e-9))
                timer, timed = now, step + 1
                self.log.note(phase.name, step, loss=value, **figures, tokens_per_second=speed)
            state.step = step + 1
            last = state.step == phase.steps
            if last or (phase.validate_every and state.step % phase.validate_every == 0):
                self._validate(phase, state)
            if phase.patience and state.without_gain >= phase.patience:
                break
            self._save(number, optimiser, state)
        if phase.validate and state.step and state.best == state.first:
            print(f"{phase.name}: no step was a gain; all stays as it was", file=sys.stderr)
        if state.best_state is not None:
            self.module.load_state_dict(state.best_state, strict=False)
        self.module.eval()

    def _step(self, number: int, step: int, optimiser: torch.optim.Optimizer) -> tuple:
        """One step of the optimiser; its mean loss and figures."""
        phase = self.phases[number]
        # Noise is a function of seed and step, so that a resumed run repeats it.
        own = self.accelerator.process_index if self._shared else 0
        torch.manual_seed(hash((self.seed, number, step)) % 2**31 + own)
        share = _warmed_cosine(step, phase.steps, phase.warm_up)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * share
        self.module.zero_grad(set_to_none=True)
        sums: Figures = {}
        alone = phase.batches == 1 and not self._several
        for batch in range(phase.batches):
            with self._gradients_of(phase, last=batch == phase.batches - 1):
                own = BatchLoss(*phase.loss(step, batch))
                weight = 1.0 if alone else own.weight
                self.accelerator.backward(own.loss * weight)
            for name, value in ({"weight": 1.0, "loss": own.loss.item()} | own.figures).items():
                sums[name] = sums.get(name, 0.0) + weight * value
        if self._several:
            device = self.accelerator.device
            shared = self.accelerator.reduce(torch.tensor([*sums.values()], device=device), "mean")
            sums = dict(zip(sums, shared.tolist(), strict=True))
        total = sums.pop("weight")
        learnt = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for gradient in (p.grad for p in learnt if p.grad is not None and total != 1):
            gradient /= total
        torch.nn.utils.clip_grad_norm_(learnt, phase.gradient_clip)
        optimiser.step()
        means = {name: value / total for name, value in sums.items()}
        return means.pop("loss"), means

    def _gradients_of(self, phase: Phase, last: bool) -> AbstractContextManager:
        """Processes add up their gradients with the last batch of a step, not with every one."""
        if last or phase.parallel is None or not self._several:
            return nullcontext()
        return self.accelerator.no_sync(phase.parallel)

    @torch.no_grad()
    def _validate(self, phase: Phase, state: _Progress) -> None:
        """Measure, and keep the state if none was better."""
        if phase.validate is None:
            return
        self.module.eval()
        figures = phase.validate()
        if self._several:
            figures = self._of_the_first(figures)
        self.module.train()
        self.log.note(f"{phase.name}_validation", state.step, **figures)
        if state.first == math.inf:
            state.first = figures["loss"]
        if figures["loss"] <= state.best:  # never if it is not a number
            state.best, state.without_gain = figures["loss"], 0
            state.best_state = {k: v.clone() for k, v in self._learned().items()}
        else:
            state.without_gain += 1

    def _of_the_first(self, figures: Figures) -> Figures:
        """What the first process measured: all keep the same state, and stop at the same step."""
        from accelerate.utils import broadcast

        values = torch.tensor([*figures.values()], device=self.accelerator.device)
        return dict(zip(figures, broadcast(values).tolist(), strict=True))

    def _check(self, phase: Phase, step: int, loss: float, state: _Progress) -> None:
        """Raise TrainingError when the loss is no number, or far above what it has been."""
        state.losses = [*state.losses, loss][-(_RECENT + _BEFORE) :]
        recent = statistics.median_low(state.losses[-_RECENT:])
        before = statistics.median(state.losses[:-_RECENT] or [math.inf])
        if not math.isfinite(loss):
            reason = "the loss is not finite"
        elif len(state.losses) == _RECENT + _BEFORE and recent > _EXPLODED * before:
            reason = f"the loss has grown to {recent:.3g}"
        elif len(state.losses) >= _RECENT and recent > state.first + _WORSE:
            reason = f"the loss has grown from {state.first:.3g} to {recent:.3g}"
        else:
            return
        raise TrainingError(
            f"{phase.name} diverged at step {step} ({reason}, {_said(self.recipe)}): lower its "
            "learning_rate, or transform_learning_rate, or warm up for longer"
        )

    def _learned(self) -> dict[str, Tensor]:
        """The module's state without parameters that never learn."""
        named = self.module.named_parameters(remove_duplicate=False)
        fixed = {name for name, parameter in named if not parameter.requires_grad}
        state = self.module.state_dict()
        return {name: value for name, value in state.items() if name not in fixed}

    def _save(self, number: int, optimiser: torch.optim.Optimizer, state: _Progress) -> None:
        wait = max(_CHECKPOINT_SECONDS, self._save_seconds / _CHECKPOINT_SHARE)
        if time.monotonic() - self._saved >= wait:
            progress = {name: getattr(state, name) for name in state.__dataclass_fields__}
            optimised = optimiser.state_dict()
            self._write({"phase": number, "progress": progress, "optimiser": optimised})

    def _write(self, position: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        started = time.monotonic()
        own = {"recipe": self.recipe, "module": self._learned(), "log": self.log.entries}
        own["seconds"] = self.log.seconds
        save_checkpoint(self.checkpoint, own | position)
        self._saved = time.monotonic()
        self._save_seconds = self._saved - started

    def _load(self) -> dict[str, Any]:
        """The checkpoint, or nothing when there is none of this recipe."""
        if not self.checkpoint.is_file():
            return {}
        state = load_checkpoint(self.checkpoint, self.accelerator.device)
        return state if state.get("recipe") == self.recipe else {}


def accelerator_for(device: torch.device) -> "Accelerator":
    """What knows the other processes of a torchrun, if there are any."""
    from accelerate import Accelerator

    return Accelerator(cpu=device.type == "cpu")


@contextmanager
def tensor_float32(device: torch.device) -> Iterator[None]:
    """Matrix products with the eleven-bit mantissas for which a GPU has units, several times as
    fast; a processor has none. Gradients and validation see them, no bitstream does."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def recipe_of(**parts: Any) -> str:
    """The recipe of a run as one line of JSON."""
    return json.dumps(parts, sort_keys=True)


def _said(recipe: str) -> str:
    parts = json.loads(recipe)
    return ", ".join(f"{name} {parts[name]}" for name in ("λ", "seed") if name in parts)


def _warmed_cosine(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to a tenth."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def sequences_of_step(total: int, count: int, seed: int, step: int) -> list[int]:
    """Which of `total` sequences a step takes: `count` of them, each once an epoch."""
    places = range(step * count, (step + 1) * count)
    return [_order(total, seed, place // total)[place % total] for place in places]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
