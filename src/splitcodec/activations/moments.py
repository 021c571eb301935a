"""Mean and covariance of a representation, streamed, without its massive activations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from splitcodec.activations.store import Activations
from splitcodec.errors import InputError

SINK_RATIO = 100.0
"""A token whose energy exceeds this multiple of the median is a sink (massive activation)."""


@dataclass(frozen=True)
class Moments:
    """First and second moments, float64; `first_mean` is that of position 0 alone.

    mean, first_mean (channels,); covariance (channels, channels); tokens: how many were used,
    neither position 0 nor sinks; sinks: how many were left out.
    """

    mean: Tensor
    first_mean: Tensor
    covariance: Tensor
    tokens: int
    sinks: int


def ordinary_tokens(representation: Tensor, mask: Tensor) -> Tensor:
    """(batch, tokens) bool: in the mask, not first, and not a sink."""
    usable = mask.clone()
    usable[:, 0] = False
    energy = representation.square().sum(-1)
    if usable.any():
        usable &= energy < SINK_RATIO * energy[usable].median()
    return usable


def moments_of(activations: Activations, batch_sequences: int = 8) -> Moments:
    """Moments over all sequences of a store; raises InputError when there are too few tokens."""
    channels = activations.channels
    total = torch.zeros(channels, dtype=torch.float64)
    first = torch.zeros(channels, dtype=torch.float64)
    products = torch.zeros(channels, channels, dtype=torch.float64)
    tokens = sinks = 0
    for batch in activations.batches(batch_sequences):
        usable = ordinary_tokens(batch.representation, batch.mask)
        values = batch.representation[usable].double()
        total += values.sum(0)
        products += values.T @ values
        first += batch.representation[:, 0].double().sum(0)
        tokens += len(values)
        sinks += int(batch.mask[:, 1:].sum()) - len(values)
    if tokens < 2:
        raise InputError(f"{activations.path} has too few tokens for a covariance; take more text")
    mean = total / tokens
    covariance = products / tokens - torch.outer(mean, mean)
    return Moments(mean, first / len(activations), covariance, tokens, sinks)


def sample_tokens(activations: Activations, tokens: int, seed: int) -> Tensor:
    """About `tokens` ordinary tokens from sequences drawn without replacement, (n, channels)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(activations), generator=generator).tolist()
    rows, count = [], 0
    for sequence in order:
        batch = activations.read([sequence])
        usable = ordinary_tokens(batch.representation, batch.mask)
        rows.append(batch.representation[usable])
        count += len(rows[-1])
        if count >= tokens:
            break
    return torch.cat(rows)[:tokens]
