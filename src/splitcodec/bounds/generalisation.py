"""What a rate measured on some documents says of documents not yet seen.

*Uniform* (PAC): with probability 1 − δ over n training documents, for every codec of the class,

    E rate ≤ training rate + 2 R̂ + 3 M √(ln(2/δ) / 2n)

(Bartlett and Mendelson 2002; Mohri, Rostamizadeh and Talwalkar 2018, theorem 3.3), R̂ the empirical
Rademacher complexity of the rates, M the largest. *Held out*: for one codec, fixed before, the
empirical Bernstein bound of Maurer and Pontil (2009, theorem 4). All in bits a token; a sample is
a document.
"""

import math

from torch import Tensor


def rate_complexity(
    linear: float, slope: float, analysis_norm: float, kept: int, tokens: int
) -> float:
    """Rademacher complexity, in bits a token, of the rates of all analysis transforms.

    Vector contraction (Maurer 2016, corollary 1): √2 L B √(kept / tokens) times `linear`, the upper
    bound √(tr K) / n of unit linear functionals of whole documents. `slope` L: bits of a token by a
    unit of its latent; `analysis_norm` B: Frobenius norm of A; `tokens` in the shortest document.
    """
    return math.sqrt(2 * kept / tokens) * slope * analysis_norm * linear


def pac_slack(complexity: float, highest: float, samples: int, delta: float) -> float:
    """How far the expected rate may exceed the training rate, with probability 1 − δ."""
    return 2 * complexity + 3 * highest * math.sqrt(math.log(2 / delta) / (2 * samples))


def held_out_slack(rates: Tensor, highest: float, delta: float) -> float:
    """How far the expected rate may exceed the mean of `rates` (documents,), fresh to the codec.

    One document says nothing of that.
    """
    samples, confidence = len(rates), math.log(2 / delta)
    if samples < 2:
        return math.inf
    spread = math.sqrt(2 * float(rates.var()) * confidence / samples)
    return spread + 7 * highest * confidence / (3 * (samples - 1))


def mean_and_error(rates: Tensor) -> tuple[float, float]:
    """Mean over documents and its standard error."""
    return float(rates.mean()), float(rates.std()) / math.sqrt(len(rates))


def gap_with_error(training: Tensor, evaluation: Tensor) -> tuple[float, float]:
    """Evaluation rate minus training rate, and the standard error, from rates of documents."""
    (first, before), (second, after) = mean_and_error(training), mean_and_error(evaluation)
    return second - first, math.hypot(before, after)
