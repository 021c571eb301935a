"""Empirical Rademacher complexity of the linear functionals of a representation.

For the class {x ↦ ⟨w, x⟩ : ‖w‖₂ ≤ 1} on n samples x₁ … xₙ the supremum has a closed form, so

    R̂ = E_σ sup_w (1/n) Σ σᵢ ⟨w, xᵢ⟩ = (1/n) E_σ ‖Σ σᵢ xᵢ‖₂ = (1/n) E_σ √(σᵀ K σ),

σ uniform signs and K the Gram matrix of the samples (Bartlett and Mendelson 2002, §4; their
lemma 22 gives R̂ ≤ √(tr K) / n). A sample is the representation of one sequence, flattened: of its
ordinary tokens, as moments take them, each less its mean. Signs are drawn at random; K makes 10,000
draws cost n² each rather than a pass over the data.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcodec.activations.extraction import spread_evenly
from splitcodec.activations.moments import Moments, ordinary_tokens
from splitcodec.activations.store import Activations

_NORMAL = 1.96
"""Standard errors to either side of a 95 % interval."""
_MOST = 2048
"""Sequences of a Gram matrix: more would cost their number squared."""


@dataclass(frozen=True)
class Rademacher:
    """Estimate, its Monte Carlo error, 95 % interval, and closed-form upper bound."""

    value: float
    standard_error: float
    low: float
    high: float
    upper: float
    draws: int
    samples: int


def rademacher_of_gram(gram: Tensor, draws: int, seed: int) -> Rademacher:
    """R̂ from a Gram matrix (samples, samples) by `draws` sign vectors."""
    samples = len(gram)
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (draws, samples), generator=generator).double() - 1
    energies = ((signs @ gram.double()) * signs).sum(-1).clamp_min(0)
    norms = energies.sqrt() / samples
    value, error = float(norms.mean()), float(norms.std()) / math.sqrt(draws)
    return Rademacher(
        value=value,
        standard_error=error,
        low=value - _NORMAL * error,
        high=value + _NORMAL * error,
        upper=math.sqrt(float(gram.diagonal().sum())) / samples,
        draws=draws,
        samples=samples,
    )


def gram_matrix(
    activations: Activations, moments: Moments, block: int = 128, most: int = _MOST
) -> Tensor:
    """Gram matrix of the store's sequences, (sequences, sequences) float64.

    Of at most `most`, spread evenly. Of every token its mean in `moments` is taken; padding, and
    what moments leave out, counts zero. Two blocks of sequences are in memory at a time.
    """
    chosen = spread_evenly(len(activations), most)
    count = len(chosen)
    gram = torch.zeros(count, count, dtype=torch.float64)
    width = max(activations.lengths)
    for first in range(0, count, block):
        rows = _flat(activations, chosen[first : first + block], moments, width)
        for second in range(0, first + 1, block):
            columns = rows
            if second != first:
                columns = _flat(activations, chosen[second : second + block], moments, width)
            part = (rows @ columns.T).double()
            gram[first : first + len(rows), second : second + len(columns)] = part
            gram[second : second + len(columns), first : first + len(rows)] = part.T
    return gram


def _flat(activations: Activations, sequences: list[int], moments: Moments, width: int) -> Tensor:
    batch = activations.read(sequences)
    usable = ordinary_tokens(batch.representation, batch.mask, not activations.first_is_sink)
    centred = batch.representation - moments.mean.float()
    centred[:, 0] = batch.representation[:, 0] - moments.first_mean.float()
    centred[~usable] = 0
    padding = (0, 0, 0, width - centred.shape[1])
    return torch.nn.functional.pad(centred, padding).flatten(1)
