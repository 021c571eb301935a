"""Kullback–Leibler divergence between the uncoded and the coded model, prediction by prediction.

A language model predicts at every token, an image classifier once an image. An encoder has features
instead of predictions: they count as observed in Gaussian noise as strong as themselves, so that an
error costs ½ ‖error‖² / ‖features‖² nats a token, half its relative square.

The vocabulary makes logits by far the largest tensors, so head and divergence run over parts of
them that stay in the processor's cache: for gradients, taken in the same pass, a few tokens at a
time, otherwise a part of the vocabulary at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from splitcodec.splitting.model import SplitModel

_CHUNK, _CHUNK_ON_GPU = 64, 2048
"""Tokens whose logits are held at once, of the whole vocabulary."""
_TOKENS, _VOCABULARY = 512, 2048
"""The same where logits come in parts of the vocabulary."""


@dataclass(frozen=True)
class LogitComparison:
    """Per token (tokens,): divergence in nats, agreement of the best token, normalisers.

    The cross-entropy of a label is its normaliser minus its logit.
    """

    kl: Tensor
    agreement: Tensor
    reference_normaliser: Tensor
    coded_normaliser: Tensor


def compare_logits(reference: Tensor, coded: Tensor) -> LogitComparison:
    """Compare two sets of float32 logits (tokens, vocabulary)."""
    reference_best, coded_best = (z.argmax(-1, keepdim=True) for z in (reference, coded))
    highest = reference.gather(-1, reference_best)
    weights = (reference - highest).exp_()
    total = weights.sum(-1)
    reference_normaliser = total.log() + highest[:, 0]
    highest = coded.gather(-1, coded_best)
    coded_normaliser = (coded - highest).exp_().sum(-1).log() + highest[:, 0]
    gap = torch.linalg.vecdot(weights, reference - coded) / total
    kl = gap - reference_normaliser + coded_normaliser
    agreement = (reference_best == coded_best)[:, 0].float()
    return LogitComparison(kl, agreement, reference_normaliser, coded_normaliser)


class _Normaliser:
    """log Σ exp of logits that come part by part, and the best of them (Milakov 2018)."""

    def __init__(self, like: Tensor) -> None:
        self.highest = torch.full_like(like[:, 0], -torch.inf, dtype=torch.float32)
        self.total = torch.zeros_like(self.highest)
        self.best = torch.zeros_like(self.highest, dtype=torch.int64)

    def add(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Take a part that begins at entry `start`.

        Returns e^(logit − highest), and by how much what was summed before has shrunk.
        """
        highest, best = logits.max(-1)
        better = highest > self.highest
        self.best = torch.where(better, best + start, self.best)
        highest = torch.maximum(highest, self.highest)
        shrunk = (self.highest - highest).exp()
        weights = (logits - highest[:, None]).exp_()
        self.total = self.total * shrunk + weights.sum(-1)
        self.highest = highest
        return weights, shrunk

    def value(self) -> Tensor:
        return self.total.log() + self.highest


def compare_heads(
    reference: tuple[SplitModel, Tensor], coded: Sequence[tuple[SplitModel, Tensor]]
) -> list[LogitComparison]:
    """Compare what heads make of final states (tokens, channels), each with its model.

    Logits are made for some hundred tokens and a part of the vocabulary at a time, so that they
    stay in the cache and the head's weights are read once for many tokens; no gradients.
    """
    model, states = reference
    groups = range(0, max(1, len(states)), _TOKENS)  # one, be it empty
    compared = []
    for start in groups:
        own = [(m, s[start : start + _TOKENS]) for m, s in coded]
        compared.append(_compare_group((model, states[start : start + _TOKENS]), own))
    return [
        LogitComparison(*(torch.cat(parts) for parts in zip(*map(_parts, several), strict=True)))
        for several in zip(*compared, strict=True)
    ]


def _parts(comparison: LogitComparison) -> tuple[Tensor, ...]:
    return tuple(getattr(comparison, field.name) for field in fields(comparison))


def _compare_group(
    reference: tuple[SplitModel, Tensor], coded: Sequence[tuple[SplitModel, Tensor]]
) -> list[LogitComparison]:
    known, others = _Normaliser(reference[1]), [_Normaliser(states) for _, states in coded]
    gaps = [torch.zeros_like(known.total) for _ in coded]
    start = 0
    for parts in zip(
        *(m.head_in_parts(s, _VOCABULARY) for m, s in [reference, *coded]), strict=True
    ):
        target, *estimates = (part.float() for part in parts)
        weights, shrunk = known.add(target, start)
        for i, (estimate, other) in enumerate(zip(estimates, others, strict=True)):
            gaps[i] = gaps[i] * shrunk + torch.linalg.vecdot(weights, target - estimate)
            other.add(estimate, start)
        start += target.shape[-1]
    return [
        LogitComparison(
            kl=gap / known.total - known.value() + other.value(),
            agreement=(known.best == other.best).float(),
            reference_normaliser=known.value(),
            coded_normaliser=other.value(),
        )
        for gap, other in zip(gaps, others, strict=True)
    ]


def compare_features(reference: Tensor, coded: Tensor) -> LogitComparison:
    """Compare two sets of float32 features (tokens, channels); agreement is their cosine."""
    energy = reference.square().sum(-1).clamp_min(1e-30)
    nothing = torch.zeros_like(energy)
    kl = 0.5 * (coded - reference).square().sum(-1) / energy
    agreement = functional.cosine_similarity(reference, coded, dim=-1)
    return LogitComparison(kl, agreement, nothing, nothing)


COMPARE = {"labels": compare_logits, "features": compare_features}
"""How outputs are compared, by what a model predicts."""


def _slope(
    model: SplitModel, reference: Tensor, coded: Tensor, compared: LogitComparison
) -> Tensor:
    """The gradient of the divergence for the coded outputs, which may be overwritten."""
    if model.predicts == "features":
        return (coded - reference) / reference.square().sum(-1, keepdim=True).clamp_min(1e-30)
    slope = (coded - compared.coded_normaliser[:, None]).exp_()
    return slope.sub_((reference - compared.reference_normaliser[:, None]).exp_())


def logit_chunks(*finals: tuple[SplitModel, Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Float32 logits of several models' final states (tokens, channels), a few tokens at a time."""
    states = finals[0][1]
    for start in range(0, len(states), _chunk(states)):
        part = slice(start, start + _chunk(states))
        yield part, [model.head(final[part]).float() for model, final in finals]


def _chunk(states: Tensor) -> int:
    """So many that logits stay in a processor's cache, or keep a GPU busy."""
    return _CHUNK if states.device.type == "cpu" else _CHUNK_ON_GPU


class _SummedDivergence(torch.autograd.Function):
    """Σ KL(reference ‖ coded) over tokens; the gradient for the logits is q − p."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        coded: Tensor,
        reference: Tensor,
        model: SplitModel,
    ) -> Tensor:
        gradients, total = [], coded.new_zeros((), dtype=torch.float32)
        parts = (states.split(_chunk(states)) for states in (coded, reference))
        for part, target in zip(*parts, strict=True):
            with torch.enable_grad():
                state = part.detach().requires_grad_()
                logits = model.head(state)
            estimate, wanted = logits.detach().float(), model.head(target).float()
            compared = COMPARE[model.predicts](wanted, estimate)
            total += compared.kl.sum()
            slope = _slope(model, wanted, estimate, compared)
            gradients += torch.autograd.grad(logits, state, slope.to(logits.dtype))
        context.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, outer: Tensor
    ) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None


def divergence(
    model: SplitModel, split: int, coded: Tensor, reference: Tensor, mask: Tensor
) -> Tensor:
    """Mean KL(uncoded ‖ coded) in nats a token.

    `coded` (batch, tokens, channels) at `split`; `reference` at the last block, uncoded; `mask`
    (batch, tokens) bool. Differentiable in `coded`.
    """
    mask = mask.to(model.device)
    kept = model.compared(mask)
    coded_final = model.final_states(coded, split)[kept]
    with torch.no_grad():
        reference_final = model.final_states(reference, model.blocks)[kept]
    if coded_final.requires_grad:
        total = _SummedDivergence.apply(coded_final, reference_final, model)
    elif model.predicts == "labels":
        (compared,) = compare_heads((model, reference_final), [(model, coded_final)])
        total = compared.kl.sum()
    else:
        chunks = logit_chunks((model, reference_final), (model, coded_final))
        total = sum(compare_features(*outputs).kl.sum() for _, outputs in chunks)
    return total / mask.sum()
