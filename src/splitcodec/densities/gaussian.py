"""Discretised Gaussian conditional: codes integers whose mean and scale are predicted.

Ballé et al. 2018 (scale hyper-prior), eq. 5; means as in Minnen et al. 2018. Coding uses a table
of 64 scales in geometric steps, as CompressAI does; the coarse scale costs about 0.05 % in rate.
"""

import math
from functools import cache

import torch
from torch import Tensor

from splitcodec.coding.entropy import Tables, quantise_tables

SCALES = 64
LOWEST_SCALE, HIGHEST_SCALE = 0.11, 64.0
_STEP = math.log(HIGHEST_SCALE / LOWEST_SCALE) / (SCALES - 1)
_TAIL = 4.5
_LEAST_LIKELIHOOD = 2.0**-24


def likelihood(residuals: Tensor, scales: Tensor) -> Tensor:
    """Probability of the unit-wide bin around `residuals` under N(0, scales²); same shapes."""
    distance = residuals.abs()
    upper = torch.special.ndtr((0.5 - distance) / scales)
    lower = torch.special.ndtr((-0.5 - distance) / scales)
    return upper - lower


def bits(residuals: Tensor, scales: Tensor) -> Tensor:
    """Code length in bits of each residual; bounded where the coder would escape."""
    scales = scales.clamp(LOWEST_SCALE, HIGHEST_SCALE)
    return -likelihood(residuals, scales).clamp_min(_LEAST_LIKELIHOOD).log2()


def table_scales() -> Tensor:
    """The scales of the coding tables, (64,) float64."""
    return torch.exp(math.log(LOWEST_SCALE) + _STEP * torch.arange(SCALES, dtype=torch.float64))


def scale_indexes(scales: Tensor) -> Tensor:
    """The coding table, 0 … 63, that is nearest to each scale in ratio; int32."""
    position = (scales.clamp(LOWEST_SCALE, HIGHEST_SCALE) / LOWEST_SCALE).log() / _STEP
    return position.round().to(torch.int32)


@cache
def tables() -> Tables:
    """Integer tables for the 64 scales, symmetric about zero."""
    rows, lowest = [], []
    for scale in table_scales():
        reach = math.ceil(_TAIL * float(scale))
        support = torch.arange(-reach, reach + 1, dtype=torch.float64)
        rows.append(likelihood(support, scale))
        lowest.append(-reach)
    return quantise_tables(rows, lowest)


@cache
def table_bits(reach: int) -> Tensor:
    """Code length in bits of the integers -reach … reach under each table, (64, 2·reach+1)."""
    support = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return bits(support[None], table_scales()[:, None])
