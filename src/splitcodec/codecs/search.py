"""Trellis-coded quantisation of a token's channels: which symbols to send, and how to read them.

Each symbol has two quantisers (`densities.two_quantisers`), and the parities of the token's symbols
before say which one it belongs to (`codecs.viterbi`). The encoder takes the symbols of least
divergence + λ · bits, to second order and of the quantisers' own values. Weighing bits shrinks what
is decoded, and that errs along the signal (`benchmarks/leads.py`): it is decoded longer by as much.
"""

import numpy as np
import torch
from torch import Tensor

from splitcodec.codecs.viterbi import State, cheapest_path
from splitcodec.coding.entropy import Decoder, Tables
from splitcodec.densities.location_scale import SCALES
from splitcodec.densities.two_quantisers import BIT

STEP = 1.3
"""Of each quantiser, relative to one that rounds: values of both together lie half as far."""
ROUNDS = 3
"""Tables decide about symbols, which decide about tables."""
GRID = 16
"""The search knows latents to a sixteenth of a step: exactly, and finely enough."""
LEAST_WEIGHT, MOST_WEIGHT = 2, 1 << 9
_ZERO_REACH = 8 * GRID
"""Beyond it zero costs no more than there: more than an escape, and yet less than 2²⁴."""
_FARTHEST = float(1 << 30)
LONGEST = 1.5
"""Of the ratios by which what weighing bits has shrunk is decoded longer."""


def error_weights(squared_steps: Tensor, rate_weight: float) -> Tensor:
    """What an error of a sixteenth of a step costs at λ = `rate_weight` (nats a bit), in 1/1024
    bit, float64; `squared_steps` as `TransformCodec.squared_steps` gives them."""
    weights = squared_steps / (2 * rate_weight) * BIT / GRID**2
    return weights.round().clamp(LEAST_WEIGHT, MOST_WEIGHT)


def cheapest_symbols(
    latents: Tensor, weights: Tensor, tables: Tensor, costs: Tensor
) -> tuple[Tensor, Tensor]:
    """Symbols of tokens, and which quantiser each is of, (tokens, kept) int32.

    `latents` (tokens, kept): whole numbers of sixteenths of a step, of any type; `weights` (kept,)
    int32 of errors; `tables` (tokens or 1, kept): the first quantiser's of each symbol; `costs`
    (tables, magnitudes) int32 of the symbols under each table. In integers, so that every machine
    finds the same.
    """
    latents = latents.T.contiguous().clamp(-_FARTHEST, _FARTHEST).to(torch.int32)
    size, weight, tables = latents.abs(), weights[:, None], tables.T.long()
    symbols = size.new_empty(len(size), 4, size.shape[1])
    branches, longest, flat = torch.empty_like(symbols), costs.shape[1], costs.flatten()
    for branch in range(4):
        quantiser, parity = divmod(branch, 2)
        shift, start = 8 * quantiser, (tables + SCALES * quantiser) * longest
        # The symbol of this parity whose value, 16 times it less the shift, is nearest.
        nearest = (size + (shift + 16 * (1 - parity))) // 32 * 2 + parity
        nearest.clamp_min_(2 - parity)
        bits = flat[start + nearest.clamp(max=longest - 1)]
        error = (size + shift).sub_(nearest, alpha=16)
        symbols[:, branch], branches[:, branch] = nearest, error.square_().mul_(weight).add_(bits)
        if parity == 0:
            zero = size.clamp(max=_ZERO_REACH).square_().mul_(weight).add_(flat[start])
            symbols[:, branch].masked_fill_(zero <= branches[:, branch], 0)
            torch.minimum(branches[:, branch], zero, out=branches[:, branch])
    path = cheapest_path(branches)
    chosen = symbols.gather(1, path[:, None])[:, 0]
    return torch.where(latents < 0, -chosen, chosen).T, (path >> 1).to(torch.int32).T


def pop_symbols(
    coder: Decoder, first: Tensor, there: Tensor, tables: Tables
) -> tuple[Tensor, Tensor]:
    """Take the symbols of one token after the other channel off the coder; int32.

    `first` (kept, …): the first quantiser's table of each symbol; `there` (…) bool: where there are
    tokens. Both, and what is returned (kept, …), on the processor, where the coder is: there is
    little to compute a channel.
    """
    none, padded = ~there.numpy(), not there.all()
    symbols, shifted = (np.empty((len(first), *there.shape), np.int32) for _ in range(2))
    state = State.first(tuple(there.shape))
    for channel, own in enumerate(first.numpy()):
        indexes = own + SCALES * state.a
        if padded:
            indexes[none] = -1
        found = coder.pop(torch.from_numpy(indexes), tables).numpy()
        symbols[channel], shifted[channel] = found, state.a
        state = state.after(found)
    return torch.from_numpy(symbols), torch.from_numpy(shifted)


def lengthening(squares: Tensor, along: Tensor) -> Tensor:
    """How much longer to decode, by sums of latents' squares and of latents times their values."""
    return torch.where(along > 0, squares / along, 1).clamp(1, LONGEST)
