"""Products and rounding to integers, and when an error of what is rounded may turn it over."""

import torch
from torch import Tensor
from torch.nn import functional

_CACHED_TOKENS = 512
"""Tokens at a time, so that a processor's cache holds what is computed of them."""


def blocks(tokens: Tensor) -> list[slice]:
    """Those of tokens (tokens, …) that a processor's cache holds; on other devices all."""
    size = _CACHED_TOKENS if tokens.device.type == "cpu" else max(1, len(tokens))
    return [slice(first, first + size) for first in range(0, len(tokens), size)]


def product(values: Tensor, matrix: Tensor) -> Tensor:
    """values (…, n) times the transpose of a matrix (m, n): (…, m)."""
    tokens = values.flatten(0, -2)
    parts = blocks(tokens)
    if torch.is_grad_enabled() or len(parts) == 1:
        return values @ matrix.T
    result = tokens.new_empty(len(tokens), len(matrix))
    for part in parts:
        torch.mm(tokens[part], matrix.T, out=result[part])
    return result.unflatten(0, values.shape[:-1])


def distances(values: Tensor, rounded: Tensor) -> Tensor:
    """Of values from the integers that they were rounded to."""
    return (values - rounded).abs_()


def near_half(distances: Tensor, error: Tensor | float) -> Tensor:
    """Tokens with a value that may round either way if it is known to an `error`.

    `distances` (…, tokens, values) from the nearest integers; the result is (…, tokens), an error
    a token (…, tokens, 1).
    """
    if not distances.shape[-1]:
        return distances.new_zeros(distances.shape[:-1], dtype=torch.bool)
    return (distances.amax(-1, keepdim=True) > 0.5 - error)[..., 0]


def doubtful(
    deviation: Tensor,
    distances: Tensor,
    errors: Tensor,
    error: float = 0.0,
    steps: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Places, by token and channel, where float32 may round to the wrong side.

    `distances` (tokens, kept) from the nearest integer: of the latents of deviations (tokens,
    channels), less what is known to an `error`, in `steps`, (tokens, 1) if a tensor. `errors`
    (kept,): what float32 does to each latent of a deviation of length one.
    """
    sizes = deviation.norm(dim=-1, keepdim=True)
    # Nearly all tokens pass this test, under the largest of the channels' errors.
    largest = functional.pad(errors, (0, 1)).max()  # 0 if none is kept
    tokens = near_half(distances, (sizes * largest + error) / steps).nonzero()[:, 0]
    steps = steps[tokens] if isinstance(steps, Tensor) else steps
    open_ = distances[tokens] > 0.5 - (sizes[tokens] * errors + error) / steps
    found, channels = open_.nonzero(as_tuple=True)
    return tokens[found], channels


def straight_through(values: Tensor) -> Tensor:
    """Rounded values, whose gradient is that of the values."""
    return values + (values.round() - values).detach()
