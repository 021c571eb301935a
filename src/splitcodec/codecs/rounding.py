"""Rounding to integers, and when an error of what is rounded may turn it over."""

import torch
from torch import Tensor


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


def straight_through(values: Tensor) -> Tensor:
    """Rounded values, whose gradient is that of the values."""
    return values + (values.round() - values).detach()
