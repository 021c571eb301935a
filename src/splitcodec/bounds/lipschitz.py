"""Lipschitz constant of the entropy model: how many bits a change of the representation costs.

*Measured*: the largest singular value of the Jacobian of the log-likelihoods (bits a token, given
the beginning of a sequence) at data points. A lower bound of the constant, as data points are few.
*Certified*: an upper bound for a causal network from the norms of its layers, everywhere.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from splitcodec.codecs.klt import Klt
from splitcodec.codecs.levels import Known
from splitcodec.codecs.networks import CausalBlock, CausalNetwork
from splitcodec.codecs.transform import TransformCodec
from splitcodec.codecs.trellis import Trellis
from splitcodec.densities.location_scale import Gaussian
from splitcodec.errors import InputError

Function = Callable[[Tensor], Tensor]

_GELU_SLOPE = 1.129
"""The largest derivative of GELU, at √2."""


def spectral_norm(function: Function, inputs: Tensor) -> Tensor:
    """Largest singular value of the Jacobian of `function` at each of `inputs` (samples, …).

    Samples must not see each other in `function`, of whose outputs there are few: each is a row of
    the Jacobian, by one backward pass. Returns (samples,).
    """
    free = inputs.detach().requires_grad_()
    outputs = function(free).flatten(1)
    rows = [
        torch.autograd.grad(output.sum(), free, retain_graph=True)[0].flatten(1)
        for output in outputs.T
    ]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), 2)


def rate_function(codec: TransformCodec) -> Function:
    """Deviations (batch, tokens, channels) ↦ bits (batch, tokens), without rounding.

    The bits are those of the densities at the values themselves, so that they have a derivative.
    A trellis counts as the quantiser of its step, which needs about the same bits. Tokens are at
    level zero. What a codec predicts from an approximately decoded token counts as constant.
    """
    if codec.sends_tokens:
        raise InputError(f"{codec.name} sends token ids, of which there is no derivative")
    relaxed = copy.deepcopy(codec).train()
    if isinstance(relaxed, Klt | Trellis):
        scales = relaxed.scales().float()
        return lambda deviation: Gaussian().bits(relaxed.latent(deviation), scales).sum(-1)
    if relaxed.has_trellis:
        relaxed.latent_density = Gaussian()
    relaxed.noisy = lambda values: values
    return lambda deviation: relaxed.estimate(deviation, Known(torch.zeros_like(deviation[0])))[1]


def gaussian_slope(scales: Tensor) -> Tensor:
    """Largest |d bits / d value| of a rounded Gaussian of each scale; same shape, float64.

    Bits are bounded, so beyond some value they are constant; up to there the slope is searched on
    a fine grid, and grows with the value.
    """
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64) * (
        6.5 * scales.double()[..., None] + 0.5
    )
    bits = Gaussian().bits(grid, scales.double()[..., None].expand_as(grid))
    return (bits.diff(dim=-1) / grid.diff(dim=-1)).amax(-1)


@torch.no_grad()
def certified_bound(network: CausalNetwork, tokens: int) -> float:
    """No change of the inputs of `tokens` tokens changes the outputs by more than this times it.

    The product of the layers' constants; norms are Frobenius over tokens and channels. Attention
    is not Lipschitz on all inputs (Kim, Papamakarios and Mnih 2021) but is on the normalised ones
    that it gets here; docs/bounds.md derives the constant. Loose by many orders: LayerNorm alone
    may stretch by 1/√ε.
    """
    first, *blocks, norm, last = network
    bound = _matrix_norm(first) * _norm_slope(norm) * _matrix_norm(last)
    for block in blocks:
        bound *= _attention_bound(block, tokens) * _feed_bound(block)
    return bound


def _matrix_norm(layer: nn.Linear) -> float:
    return float(torch.linalg.matrix_norm(layer.weight.double(), 2))


def _norm_slope(norm: nn.LayerNorm) -> float:
    return float(norm.weight.abs().max()) / math.sqrt(norm.eps)


def _feed_bound(block: CausalBlock) -> float:
    inner, _, outer = block.feed
    return 1 + _norm_slope(block.feed_norm) * _matrix_norm(inner) * _GELU_SLOPE * _matrix_norm(
        outer
    )


def _attention_bound(block: CausalBlock, tokens: int) -> float:
    """1 + the constant of normalisation, attention over at most `tokens` tokens, and mixing."""
    norm = block.attention_norm
    weight, bias = (p.double() for p in block.query_key_value.parameters())
    radius = float(norm.weight.norm(p=torch.inf)) * math.sqrt(len(norm.weight))
    radius += float(norm.bias.norm())
    norms, reach = [], []
    for part, offset in zip(weight.chunk(3), bias.chunk(3), strict=True):
        norms.append(float(torch.linalg.matrix_norm(part, 2)))
        heads = zip(part.chunk(block.heads), offset.chunk(block.heads), strict=True)
        reach.append(
            max(float(torch.linalg.matrix_norm(w, 2)) * radius + float(b.norm()) for w, b in heads)
        )
    (query, key, value), (query_reach, key_reach, value_reach) = norms, reach
    width = weight.shape[1] / block.heads
    moved = math.sqrt((key_reach * query) ** 2 + tokens * (query_reach * key) ** 2)
    attention = math.sqrt(tokens) * value + value_reach * math.sqrt(2 / width) * moved
    return 1 + _norm_slope(norm) * attention * _matrix_norm(block.mixed)
