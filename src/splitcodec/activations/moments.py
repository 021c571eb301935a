"""Mean and covariance of a representation, streamed, without its massive activations."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from splitcodec.activations.store import Activations, Batch
from splitcodec.devices import device
from splitcodec.errors import InputError

SINK_RATIO = 100.0
"""A token whose energy exceeds this multiple of its sequence's median is a sink (massive
activation)."""


@dataclass(frozen=True)
class ContextMoments:
    """Second moments of tokens' contexts, float64, over all tokens of the moments.

    covariance (regressors, regressors); cross (channels, regressors) with the token's deviation;
    row_mean (channels,) of the head's rows of these tokens, rows (channels, channels) their
    covariance over the vocabulary. Regressors: first the deviation of the token before, if
    `history`, then the head's row of the token at hand, if token ids count.
    """

    covariance: Tensor
    cross: Tensor
    row_mean: Tensor
    history: bool
    rows: Tensor | None = None


@dataclass(frozen=True)
class Moments:
    """First and second moments, float64; `first_mean` is that of position 0 alone.

    mean (of the other positions), first_mean (channels,); covariance (channels, channels); tokens:
    how many were used: not sinks, nor position 0 of text; sinks: how many were left out; counts
    (vocabulary,) of token ids and context: where asked for.
    """

    mean: Tensor
    first_mean: Tensor
    covariance: Tensor
    tokens: int
    sinks: int
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    context: ContextMoments | None = None


def ordinary_tokens(representation: Tensor, mask: Tensor, first: bool = False) -> Tensor:
    """(batch, tokens) bool: in the mask, not a sink, and not first unless `first` are ordinary."""
    usable = mask.clone()
    usable[:, 0] &= first
    energy = representation.square().sum(-1)
    median = energy.where(usable, torch.nan).nanmedian(-1, keepdim=True).values
    return usable & (energy < SINK_RATIO * median)


def moments_of(
    activations: Activations,
    batch_sequences: int = 8,
    history: bool = False,
    embedding: Tensor | None = None,
) -> Moments:
    """Moments over all sequences of a store; raises InputError when there are too few tokens.

    The first token of a picture counts with its deviation from the mean of first tokens. With
    `history` or `embedding` (vocabulary, channels) also those of each token's context.
    """
    channels = activations.channels
    ordinary_first = not activations.first_is_sink
    here = device()
    total, first, usual_first = torch.zeros(3, channels, dtype=torch.float64, device=here)
    products = torch.zeros(channels, channels, dtype=torch.float64, device=here)
    vocabulary = 0 if embedding is None else len(embedding)
    counts = torch.zeros(vocabulary, dtype=torch.int64, device=here)
    tokens = sinks = firsts = 0
    for batch in (batch.to(here) for batch in activations.batches(batch_sequences)):
        usable = ordinary_tokens(batch.representation, batch.mask, ordinary_first)
        values = batch.representation[usable].double()
        total += values.sum(0)
        products += values.T @ values
        first += batch.representation[:, 0].double().sum(0)
        usual_first += batch.representation[usable[:, 0], 0].double().sum(0)
        firsts += int(usable[:, 0].sum())
        tokens += len(values)
        sinks += int(batch.mask[:, 1 - ordinary_first :].sum()) - len(values)
        if embedding is not None:
            counts += torch.bincount(batch.tokens[batch.mask], minlength=len(counts))
    if tokens < 2:
        raise InputError(f"{activations.path} has too few tokens for a covariance; take more text")
    first_mean = first.cpu() / len(activations)
    later, usual_first = (total - usual_first).cpu(), usual_first.cpu()
    mean = later / (tokens - firsts) if tokens > firsts else first_mean
    # Σ (x − m)(x − m)ᵀ, with the own m of each kind of token.
    crossed = torch.outer(later, mean) + torch.outer(usual_first, first_mean)
    squares = (tokens - firsts) * torch.outer(mean, mean)
    squares += firsts * torch.outer(first_mean, first_mean)
    covariance = (products.cpu() - crossed - crossed.T + squares) / tokens
    moments = Moments(mean, first_mean, covariance, tokens, sinks, counts.cpu())
    if not history and embedding is None:
        return moments
    return replace(moments, context=_context_moments(activations, moments, history, embedding))


def _context_moments(
    activations: Activations, moments: Moments, history: bool, embedding: Tensor | None
) -> ContextMoments:
    row_mean = torch.zeros(0, dtype=torch.float64)
    if embedding is not None:
        weights = (moments.counts / moments.counts.sum()).to(embedding)
        row_mean = (weights @ embedding).double().cpu()
    here = device()
    context = Context(moments.mean.to(here).float(), row_mean.to(here).float(), history, embedding)
    covariance, cross = 0.0, 0.0
    for batch in (batch.to(here) for batch in activations.batches(8)):
        usable = ordinary_tokens(batch.representation, batch.mask)
        values = (batch.representation[usable] - context.mean).double()
        regressors = context.of(batch)[usable].double()
        covariance = covariance + regressors.T @ regressors
        cross = cross + values.T @ regressors
    # A picture's first token has no context and adds nothing, but it counts.
    parts = covariance.cpu() / moments.tokens, cross.cpu() / moments.tokens
    return ContextMoments(*parts, row_mean, history, _covariance_of_rows(embedding))


def _covariance_of_rows(embedding: Tensor | None) -> Tensor | None:
    if embedding is None:
        return None
    rows = embedding.float()
    return torch.cov(rows.T, correction=0).double().cpu()


@dataclass(frozen=True)
class Context:
    """What a decoder may know of a token: the deviation of the one before, the head's row of it."""

    mean: Tensor
    row_mean: Tensor
    history: bool
    embedding: Tensor | None

    def of(self, batch: Batch) -> Tensor:
        """(batch, tokens, regressors) float32; nothing is known before the first two tokens."""
        parts = []
        if self.history:
            usable = ordinary_tokens(batch.representation, batch.mask)
            deviation = (batch.representation - self.mean) * usable[..., None]
            parts.append(functional.pad(deviation[:, :-1], (0, 0, 1, 0)))
        if self.embedding is not None:
            rows = self.embedding[batch.tokens.to(self.embedding.device)].float()
            parts.append(rows.to(self.row_mean.device) - self.row_mean)
        return torch.cat(parts, -1)


@dataclass(frozen=True)
class Sample:
    """Ordinary tokens: values (n, channels), and their contexts (n, regressors), if they count."""

    values: Tensor
    context: Tensor | None = None
    history: bool = False

    def context_with_noise(self, covariance: Tensor) -> Tensor:
        """Contexts in which the token before has a coding error of `covariance`; float64."""
        context = self.context.double()
        if self.history:
            channels = len(covariance)
            generator = torch.Generator().manual_seed(0)
            white = torch.randn(len(context), channels, generator=generator, dtype=torch.float64)
            root = torch.linalg.cholesky(covariance)
            context[:, :channels] += white @ root.T
        return context


def sample_tokens(
    activations: Activations,
    tokens: int,
    seed: int,
    moments: Moments | None = None,
    embedding: Tensor | None = None,
) -> Sample:
    """About `tokens` ordinary tokens from sequences drawn without replacement.

    With their contexts, if `moments` have them. First tokens, which deviate from a mean of their
    own, are left out of pictures too, though moments count them.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(activations), generator=generator).tolist()
    context = None
    if moments and moments.context:
        known = moments.context
        mean, row_mean = moments.mean.float(), known.row_mean.float()
        context = Context(mean, row_mean, known.history, embedding)
    rows, contexts, count = [], [], 0
    for sequence in order:
        batch = activations.read([sequence])
        usable = ordinary_tokens(batch.representation, batch.mask)
        rows.append(batch.representation[usable])
        if context:
            contexts.append(context.of(batch)[usable])
        count += len(rows[-1])
        if count >= tokens:
            break
    values = torch.cat(rows)[:tokens]
    if not context:
        return Sample(values)
    return Sample(values, torch.cat(contexts)[:tokens], context.history)
