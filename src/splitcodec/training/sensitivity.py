"""How much the output cares about each direction of the representation: its Fisher information.

G = E[g gᵀ], g the gradient of the summed cross-entropy at the representation of one token, with
labels sampled from the model itself. An error e of the representation then costs about ½ eᵀ G e
nats of divergence (Amari 1998; as used for quantisation by LeCun et al. 1990).
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from splitcodec.activations.extraction import spread_evenly
from splitcodec.activations.moments import ordinary_tokens
from splitcodec.activations.store import Activations
from splitcodec.errors import InputError
from splitcodec.files import atomic_path
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel


def measure_sensitivity(
    model: SplitModel, activations: dict[int, Activations], sequences: int, batch: int, seed: int
) -> dict[int, Tensor]:
    """G (channels, channels) float64 at every split of `activations`, in one backward pass each.

    The forward pass starts from the stored representation at the earliest split.
    """
    splits = sorted(activations)
    earliest = activations[splits[0]]
    chosen = spread_evenly(len(earliest), sequences)
    generator = torch.Generator(model.device).manual_seed(seed)
    totals = {k: torch.zeros(model.channels, model.channels).double() for k in splits}
    tokens = dict.fromkeys(splits, 0)
    for start in progress(range(0, len(chosen), batch), "measuring sensitivity"):
        rows = earliest.read(chosen[start : start + batch])
        states = _states(model, rows.representation, splits)
        loss = _sampled_loss(model.back(states[-1], splits[-1]), rows.mask, generator)
        for split, state, gradient in zip(
            splits, states, torch.autograd.grad(loss, states), strict=True
        ):
            usable = ordinary_tokens(state.detach().float().cpu(), rows.mask)
            values = gradient.cpu()[usable].double()
            totals[split] += values.T @ values
            tokens[split] += len(values)
    return {split: totals[split] / tokens[split] for split in splits}


def _states(model: SplitModel, start: Tensor, splits: Sequence[int]) -> list[Tensor]:
    """The representations at all splits, in one graph that begins at the first."""
    states = [start.to(model.device, model.dtype).requires_grad_()]
    for split, later in itertools.pairwise(splits):
        states.append(model.middle(states[-1], split, later))
    return states


def _sampled_loss(logits: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Summed cross-entropy against labels drawn from the logits themselves."""
    kept = logits[mask.to(logits.device)].float()
    labels = torch.multinomial(kept.detach().softmax(-1), 1, generator=generator)
    return functional.cross_entropy(kept, labels[:, 0], reduction="sum")


def save_sensitivity(path: Path, sensitivity: Tensor, meaning: dict[str, Any]) -> None:
    """Write G with its meaning as a safetensors file."""
    said = {"kind": "sensitivity", **meaning}
    sealed = said | {"crc32c": _checksum(said, sensitivity)}
    metadata = {"splitcodec": json.dumps(sealed)}  # of several, safetensors mixes the order
    with atomic_path(path) as temporary:
        safetensors.torch.save_file({"sensitivity": sensitivity}, temporary, metadata=metadata)


def load_sensitivity(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """G and its meaning; raises InputError for a missing, damaged or foreign file."""
    try:
        with safe_open(path, "pt") as file:
            metadata, matrix = file.metadata() or {}, file.get_tensor("sensitivity")
        meaning = json.loads(metadata["splitcodec"])
        if meaning.pop("crc32c") != _checksum(meaning, matrix):
            raise ValueError("its checksum does not fit")
        return matrix, meaning
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `splitcodec sensitivity` first") from None
    except (
        SafetensorError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is no sensitivity file, or damaged ({reason:.200}); make it again"
        ) from None


def _checksum(said: dict[str, Any], matrix: Tensor) -> str:
    """CRC-32C of the meaning and the values."""
    values = matrix.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{google_crc32c.value(json.dumps(said).encode() + values):08x}"
