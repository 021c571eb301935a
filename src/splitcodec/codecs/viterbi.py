"""The search for the cheapest path through a trellis that chooses between two quantisers.

Trellis-coded quantisation (Marcellin and Fischer 1990): the symbols so far tell which of two
quantisers the next one belongs to, so that values lie as close as half a step without a bit that
says which is meant, and the encoder looks for the sequence of least cost. The code is Ungerboeck's
with eight states (1982, table I), by which quantisation is 1.1 dB better than rounding where the
rate is high; 1.53 dB is all that there is. Its state are three bits:

    a', b', c' = a xor b, c xor the symbol's parity, a          a names the quantiser

All costs are integers, so that the path does not depend on the machine. It is found by NumPy on the
processor: there are a dozen operations a step, each on few numbers, and NumPy begins one sooner
than torch.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

_STATES = 8  # number a + 2 b + 4 c
_SUMS = np.array([0, 2, 3, 1, 4, 6, 7, 5])
"""Of the states before states 0 1 4 5, which are those before 2 3 6 7; with c = 0, and with 1."""
_ONCE_IN = 16
"""Steps after which what all sums have in common is taken off, so that they fit into 32 bits."""
_NOT_THE_FIRST = 1 << 28


@dataclass(frozen=True)
class State:
    """Three bits after some symbols, all integers of one shape; `a` is the next quantiser's."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    @classmethod
    def first(cls, shape: tuple[int, ...] = ()) -> Self:
        """Before any symbol, of every token of `shape`; int32."""
        zero = np.zeros(shape, np.int32)
        return cls(zero, zero, zero)

    def after(self, symbols: np.ndarray) -> Self:
        """With one symbol more."""
        return type(self)(self.a ^ self.b, self.c ^ (symbols & 1), self.a)


def cheapest_path(costs: Tensor) -> Tensor:
    """The branches of least sum, (steps, tokens) int64: 2 · quantiser + parity of each symbol.

    `costs` (steps, 4, tokens) int32, below 2²⁴, of these branches at each step.
    """
    found = _path(costs.cpu().numpy())
    return torch.from_numpy(found).to(costs.device)


def _path(costs: np.ndarray) -> np.ndarray:
    steps, _, tokens = costs.shape
    taken = np.empty((steps, 2, 2, 2, tokens), bool)
    sums = np.full((_STATES, tokens), _NOT_THE_FIRST, np.int32)
    sums[0] = 0
    own = costs.reshape(steps, 2, 2, 1, tokens)  # quantiser, parity, any
    for step, (straight, crossed) in enumerate(zip(own, own[:, :, ::-1], strict=True)):
        # A state (c', b', a') comes of quantiser c', of parity b' if c was 0, or else of the other.
        one, other = sums[_SUMS].reshape(2, 2, 1, 2, tokens)
        one, other = one + straight, other + crossed
        np.less(other, one, out=taken[step])
        sums = np.minimum(one, other).reshape(_STATES, tokens)
        if step % _ONCE_IN == 0:
            sums -= sums[0].copy()
    return _traced(taken.reshape(steps, _STATES, tokens), sums.argmin(0))


def _traced(taken: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The branches (steps, tokens) of the paths that end at `state` (tokens,), int64."""
    branches, every = np.empty((len(taken), len(state)), np.int64), np.arange(len(state))
    for step in reversed(range(len(taken))):
        other = taken[step][state, every]
        # The second half of `_SUMS` is four more than the first.
        quantiser, low = state >> 2, state & 1
        np.bitwise_xor(state >> 1, other, out=branches[step])
        state = quantiser | (low ^ quantiser) << 1 | other.astype(np.int64) << 2
    return branches
