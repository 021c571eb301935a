"""What all training of a model's weights shares: batches, parameter groups, precision."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from splitcodec.settings import Optimisation
from splitcodec.training.loop import sequences_of_step


def weight_groups(
    parameters: Iterable[nn.Parameter], settings: Optimisation
) -> list[dict[str, Any]]:
    """A model's learnable weights with their peak rate; only matrices decay."""
    learnable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in learnable if parameter.ndim > 1]
    others = [parameter for parameter in learnable if parameter.ndim <= 1]
    rate = {"lr": settings.learning_rate}
    decayed = {"params": matrices, **rate, "weight_decay": settings.weight_decay}
    return [group for group in (decayed, {"params": others, **rate}) if group["params"]]


def rows_of_batch(
    settings: Optimisation, total: int, seed: int, step: int, batch: int
) -> list[int]:
    """Which of `total` sequences one of a step's batches takes."""
    rows = sequences_of_step(total, settings.sequences, seed, step)
    size = settings.batch_sequences
    return rows[batch * size : (batch + 1) * size]


def autocast(settings: Optimisation, device: torch.device) -> AbstractContextManager:
    """The precision in which the model computes while it learns."""
    return torch.autocast(device.type, torch.bfloat16, settings.precision == "bfloat16")
