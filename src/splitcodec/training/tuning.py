"""Training a model together with its codec, through the rounding.

*back*: the blocks after the split, norm and head learn with a codec that was fitted to the stored
representation. *end-to-end*: all of the model learns, as published (de Andrade et al. 2026): the
representation itself is rounded, after a learned gain a channel that is divided out again, and the
loss is the cross-entropy of the text plus λ · bits a token. In the modes with adapters, low-rank
factors learn in place of weights.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from splitcodec.activations.moments import ordinary_tokens
from splitcodec.codecs.base import Codec
from splitcodec.codecs.catalogue import is_baseline
from splitcodec.codecs.klt import scaled_identity
from splitcodec.codecs.registry import build_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.errors import TrainingError
from splitcodec.inputs.tokens import TokenTable
from splitcodec.settings import Mode, Tuning, changes_front
from splitcodec.splitting.changes import back_modules, changes_between, untie_head
from splitcodec.splitting.model import SplitModel
from splitcodec.training.batches import Draw, TrainingBatch, read_batch
from splitcodec.training.fitting import codec_groups, transform_groups
from splitcodec.training.log import Figures, Log
from splitcodec.training.loop import BatchLoss, Loop, Phase, accelerator_for
from splitcodec.training.weights import autocast, rows_of_batch, weight_groups

_START_SEQUENCES = 32

Changes = dict[str, Tensor]


@dataclass(frozen=True)
class Learning:
    """How a model learns: with which codec at which split, what of it, and how.

    `original` is the uncoded model, which stays as it is.
    """

    original: SplitModel
    split: int
    mode: Mode
    tuning: Tuning
    rate_weight: float
    seed: int

    @property
    def end_to_end(self) -> bool:
        """Whether the front learns too."""
        return changes_front(self.mode)

    @property
    def adapters(self) -> bool:
        """Whether low-rank factors learn in place of weights."""
        return self.mode.endswith("adapters")


class LearningPair(nn.Module):
    """Model and codec as one module, of which just those parameters need a gradient that learn."""

    def __init__(self, learning: Learning, codec: Codec) -> None:
        super().__init__()
        self.learning = learning
        self.model = _learner(learning)
        self.codec = codec.to(learning.original.device)
        self.log_gain: nn.Parameter | None = None
        if learning.end_to_end and isinstance(codec, TransformCodec):
            self.log_gain = nn.Parameter(codec.analysis.detach().diagonal().log())
            codec.analysis.requires_grad_(False)
            codec.synthesis.requires_grad_(False)
        self._codec_learns = any(p.requires_grad for p in codec.parameters())

    def train(self, mode: bool = True) -> "LearningPair":
        """The codec's noise only: dropout stays off."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, sample: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Bits a token and distortion in nats a token."""
        learning = self.learning
        with autocast(learning.tuning, sample.tokens.device):
            representation = (
                self.model.front(sample.tokens, learning.split)
                if learning.end_to_end
                else sample.representation
            )
        representation = representation.float()
        estimate = functional_call(
            self.codec, self.transforms(), (representation, sample.lengths, sample.tokens)
        )
        rate = estimate.bits.sum() / sample.lengths.sum()
        decoded = estimate.reconstruction
        if not self._codec_learns:
            decoded = representation + (decoded - representation).detach()
        with autocast(learning.tuning, sample.tokens.device):
            final = self.model.final_states(decoded, learning.split)
            return rate, self._distortion(final, sample)

    def transforms(self) -> dict[str, Tensor]:
        """The codec's matrices where gains stand for them."""
        if self.log_gain is None:
            return {}
        gain = self.log_gain.exp()
        return {"analysis": torch.diag(gain), "synthesis": torch.diag(1 / gain)}

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their peak rates."""
        groups = weight_groups(self.model.parameters(), self.learning.tuning)
        if self._codec_learns:
            codec = codec_groups(self.codec)
            groups += codec
            if self.log_gain is None:
                groups += transform_groups(self.codec, self.learning.rate_weight)
            else:
                groups.append({"params": [self.log_gain], "lr": codec[-1]["lr"]})
        return groups

    def result(self) -> tuple[Codec, Changes]:
        """The codec, ready to code, and what has changed in the model."""
        with torch.no_grad():
            for name, matrix in self.transforms().items():
                getattr(self.codec, name).copy_(matrix)
        codec = self.codec.cpu()
        if self._codec_learns:
            codec.update()
        if self.learning.adapters:
            from splitcodec.training.adapters import adapter_factors

            return codec.eval(), adapter_factors(self.model)
        return codec.eval(), changes_between(self.learning.original, self.model)

    def _distortion(self, final: Tensor, sample: TrainingBatch) -> Tensor:
        if sample.reference is None:
            scored = sample.mask[:, 1:]
            logits = self.model.head(final[:, :-1][scored]).float()
            return functional.cross_entropy(logits, sample.tokens[:, 1:][scored])
        original, mask = self.learning.original, sample.mask
        with torch.no_grad():
            wanted = original.final_states(sample.reference, original.blocks)[mask]
            wanted = original.head(wanted).float().log_softmax(-1)
        coded = self.model.head(final[mask]).float().log_softmax(-1)
        return functional.kl_div(coded, wanted, reduction="batchmean", log_target=True)


def _learner(learning: Learning) -> SplitModel:
    """A copy of the original in float32, of which the part that learns needs gradients."""
    model, split = copy.deepcopy(learning.original).float(), learning.split
    if learning.adapters:
        # peft takes two seconds to import, which other modes need not pay.
        from splitcodec.training.adapters import add_adapters

        blocks = model.back_blocks(0 if learning.end_to_end else split)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(learning.seed)
            add_adapters(model, blocks, learning.tuning.rank)
        return model
    if learning.end_to_end:
        return model.requires_grad_()
    untie_head(model)
    for module in back_modules(model, split):
        module.requires_grad_()
    return model


def start_end_to_end(
    learning: Learning, name: str, hyperparameters: dict[str, Any], tokens: TokenTable
) -> Codec:
    """A codec for end-to-end learning: gains that give each channel the wanted deviation."""
    original = learning.original
    if is_baseline(name):
        return build_codec(name, original.channels, hyperparameters)
    torch.manual_seed(learning.seed)
    rows = range(min(_START_SEQUENCES, len(tokens.sequences)))
    sample = read_batch(tokens, list(rows), original.device)
    with torch.no_grad():
        values = original.front(sample.tokens, learning.split).float()
    usable = ordinary_tokens(values, sample.mask)
    klt = scaled_identity(
        values[usable].mean(0),
        values[:, 0].mean(0),
        values[usable].std(0),
        learning.tuning.spread,
    )
    codec = build_codec(name, original.channels, hyperparameters, kept=original.channels)
    codec.start_from(klt)
    return codec


class JointTraining:
    """The losses of model and codec on the `total` sequences that `draw` gives by number.

    Raises TrainingError when the batches of a step cannot be shared evenly among processes.
    """

    def __init__(
        self,
        learning: Learning,
        codec: Codec,
        draw: Draw,
        total: int,
        validation: list[TrainingBatch],
    ) -> None:
        self.learning = learning
        self.settings = learning.tuning
        self.pair = LearningPair(learning, codec)
        self.draw = draw
        self.total = total
        self.validation = validation
        self._accelerator = accelerator_for(learning.original.device)
        several = self._accelerator.num_processes > 1
        self._parallel = self._accelerator.prepare_model(self.pair) if several else self.pair
        self._batches = self._batches_of_a_process()

    def run(self, recipe: str, checkpoint: Path, log: Log) -> tuple[Codec, Changes]:
        """Train from the checkpoint or the start; raises TrainingError when training diverges."""
        settings = self.settings
        phase = Phase(
            "tuning",
            settings.steps,
            settings.warm_up_steps,
            self.pair.groups,
            self._loss,
            tokens=settings.sequences * self.validation[0].tokens.shape[1],
            batches=self._batches,
            gradient_clip=settings.gradient_clip,
            validate=self._validate,
            validate_every=settings.validate_every,
            patience=settings.patience,
            parallel=self._parallel,
        )
        seed = self.learning.seed
        Loop(self.pair, [phase], seed, recipe, checkpoint, log, self._accelerator).run()
        return self.pair.result()

    def _batches_of_a_process(self) -> int:
        batches = self.settings.sequences // self.settings.batch_sequences
        own, rest = divmod(batches, self._accelerator.num_processes)
        if rest or not own:
            raise TrainingError(
                f"{batches} batches a step cannot be shared by {self._accelerator.num_processes} "
                "processes; change sequences or batch_sequences"
            )
        return own

    def _loss(self, step: int, batch: int) -> BatchLoss:
        settings, learning = self.settings, self.learning
        number = self._accelerator.process_index * self._batches + batch
        rows = rows_of_batch(settings, self.total, learning.seed, step, number)
        sample = self.draw(rows)
        rate, distortion = self._parallel(sample)
        grown = min(1.0, (step + 1) / (settings.rate_warm_up_steps + 1))
        loss = distortion + grown * learning.rate_weight * (rate + _penalty(self.pair.codec))
        # A sequence's first token is no prediction, but is coded.
        tokens = sample.lengths.sum() - (len(rows) if sample.reference is None else 0)
        return BatchLoss(loss, self._figures(rate, distortion), float(tokens))

    def _validate(self) -> Figures:
        """Distortion + λ · rate on the validation partition, with real rounding."""
        samples = self.validation
        weights = torch.tensor([float(sample.lengths.sum()) for sample in samples])
        with self._as_kept():
            pairs = torch.tensor([[part.item() for part in self.pair(s)] for s in samples])
        rate, distortion = weights @ pairs / weights.sum()
        objective = distortion + self.learning.rate_weight * rate
        return {"loss": objective.item(), **self._figures(rate, distortion)}

    @contextmanager
    def _as_kept(self) -> Iterator[None]:
        """With weights rounded to the original's precision, in which they are saved."""
        dtype = self.learning.original.dtype
        learned = [p for p in self.pair.model.parameters() if p.requires_grad]
        if dtype == torch.float32 or self.learning.adapters:  # whose factors stay in float32
            learned = []
        exact = [parameter.detach().clone() for parameter in learned]
        for parameter in learned:
            parameter.copy_(parameter.to(dtype))
        try:
            yield
        finally:
            for parameter, value in zip(learned, exact, strict=True):
                parameter.copy_(value)

    def _figures(self, rate: Tensor, distortion: Tensor) -> Figures:
        return {"bits_per_token": rate.item(), _NAMES[self.settings.loss]: distortion.item()}


_NAMES = {"cross-entropy": "cross_entropy", "kl": "kl"}


def _penalty(codec: Codec) -> Tensor | float:
    return codec.penalty() if isinstance(codec, TransformCodec) else 0.0
