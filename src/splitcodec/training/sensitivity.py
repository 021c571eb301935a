"""How much the output cares about each direction of the representation, and about each token.

G = E[g gᵀ], g the gradient of the summed cross-entropy at the representation of one token, with
labels sampled from the model itself. An error e of the representation then costs about ½ eᵀ G e
nats of divergence (Amari 1998; as used for quantisation by LeCun et al. 1990).

Tokens differ: s = gᵀ G⁻¹ g / channels, of mean one, says how much more than the mean a token
matters. Its logarithm is predicted from the representation, linearly, by the gamma likelihood
(McCullagh and Nelder 1989, ch. 8), whose optimum is the conditional mean of s.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
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
from splitcodec.codecs.levels import TokenWeights
from splitcodec.devices import device
from splitcodec.errors import InputError, reason_of
from splitcodec.files import atomic_path
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel

_WEIGHTS = tuple(field.name for field in fields(TokenWeights))
_SCORING_STEPS, _SCORED = 50, 1e-9
"""At most so many; before, when a step is so small beside what has been found."""
_RIDGES = (0.3, 0.1, 0.03, 0.01)
_HELD_OUT = 4
"""Of so many sequences one is held out to choose how far the weights are shrunk."""


@dataclass(frozen=True)
class Sensitivity:
    """G (channels, channels) float64, and what predicts how much a token matters."""

    matrix: Tensor
    weights: TokenWeights


def measure_sensitivity(
    model: SplitModel, activations: dict[int, Activations], sequences: int, batch: int, seed: int
) -> dict[int, Sensitivity]:
    """Sensitivities at every split of `activations`, in one backward pass each.

    The forward pass starts from the stored representation at the earliest split. Representations
    and gradients of all these sequences are held in memory.
    """
    values: dict[int, list[Tensor]] = {k: [] for k in activations}
    gradients: dict[int, list[Tensor]] = {k: [] for k in activations}
    for split, value, gradient in _gradients(model, activations, sequences, batch, seed):
        values[split].append(value)
        gradients[split].append(gradient)
    return {k: _sensitivity_of(values.pop(k), gradients.pop(k)) for k in sorted(activations)}


def _sensitivity_of(values: list[Tensor], gradients: list[Tensor]) -> Sensitivity:
    """From the tokens of each sequence and their gradients, (tokens, channels)."""
    values, gradients = ([own.to(device()).double() for own in o] for o in (values, gradients))
    every = torch.cat(gradients)
    matrix = every.T @ every / len(every)
    ridge = 1e-3 * matrix.diagonal().mean() * torch.eye(len(matrix)).to(matrix)
    inverse = torch.linalg.inv(torch.linalg.cholesky(matrix + ridge))
    energies = [(own @ inverse.T).square().mean(-1) for own in gradients]
    weights = fit_weights(values, energies)
    return Sensitivity(matrix.cpu(), TokenWeights(*(getattr(weights, n).cpu() for n in _WEIGHTS)))


def fit_weights(values: list[Tensor], energies: list[Tensor]) -> TokenWeights:
    """What predicts energies (tokens,), relative to their mean, from tokens (tokens, channels).

    Both a list of sequences. The ridge is the one that suits held-out sequences best; with too few
    sequences, or where none helps, all tokens count alike.
    """
    held_out = range(_HELD_OUT - 1, len(values), _HELD_OUT)
    kept = [i for i in range(len(values)) if i not in held_out]
    every, mean = torch.cat(values), torch.cat(energies).mean().clamp_min(1e-30)
    centre, spread = every.mean(0), every.std(0).clamp_min(1e-12)
    flat = TokenWeights.flat(centre, spread)
    if not held_out:
        return flat
    train, test = (
        (torch.cat([values[i] for i in part]), torch.cat([energies[i] for i in part]) / mean)
        for part in (kept, held_out)
    )
    best, weights = _gamma_loss(flat, *test), None
    for ridge in _RIDGES:
        candidate = _fit_gamma(flat, *train, ridge)
        loss = _gamma_loss(candidate, *test)
        if loss < best:
            best, weights = loss, ridge
    return flat if weights is None else _fit_gamma(flat, every, torch.cat(energies) / mean, weights)


def _gamma_loss(weights: TokenWeights, values: Tensor, energies: Tensor) -> float:
    predicted = weights.log_sensitivity(values)
    return float((predicted + energies * (-predicted).exp()).mean())


def _fit_gamma(flat: TokenWeights, values: Tensor, energies: Tensor, ridge: float) -> TokenWeights:
    """Weights of the least penalised loss, which is convex, by Fisher scoring."""
    inputs = flat.inputs(values)
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    penalty = torch.full_like(inputs[0], ridge)
    penalty[-1] = 0.0
    curvature = torch.linalg.cholesky(inputs.T @ inputs / len(inputs) + penalty.diag())
    solution = torch.zeros_like(inputs[0])
    for _ in range(_SCORING_STEPS):
        relative = energies * (-inputs @ solution).exp()
        slope = inputs.T @ (1 - relative) / len(inputs) + penalty * solution
        step = torch.cholesky_solve(slope[:, None], curvature)[:, 0]
        solution = solution - step
        if step.abs().max() <= _SCORED * solution.abs().max():
            break
    predicted = inputs @ solution
    offset = solution[-1] - predicted.exp().mean().log()
    return TokenWeights(flat.centre, flat.spread, solution[:-1], offset)


def _gradients(
    model: SplitModel, activations: dict[int, Activations], sequences: int, batch: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Split, ordinary tokens of a sequence and their gradients, each (tokens, channels) float32."""
    splits = sorted(activations)
    earliest = activations[splits[0]]
    chosen = spread_evenly(len(earliest), sequences)
    generator = torch.Generator(model.device).manual_seed(seed)
    for start in progress(range(0, len(chosen), batch), "measuring sensitivity"):
        rows = earliest.read(chosen[start : start + batch])
        states = _states(model, rows.representation, splits)
        loss = _sampled_loss(model, model.back(states[-1], splits[-1]), rows.mask, generator)
        for split, state, gradient in zip(
            splits, states, torch.autograd.grad(loss, states), strict=True
        ):
            values, gradient = state.detach().float().cpu(), gradient.float().cpu()
            # A picture has all its tokens, but not as many at every split.
            mask = rows.mask if earliest.first_is_sink else torch.ones(values.shape[:2]).bool()
            usable = ordinary_tokens(values, mask, not earliest.first_is_sink)
            for row, own in enumerate(usable):
                yield split, values[row, own], gradient[row, own]


def _states(model: SplitModel, start: Tensor, splits: Sequence[int]) -> list[Tensor]:
    """The representations at all splits, in one graph that begins at the first."""
    states = [start.to(model.device, model.dtype).requires_grad_()]
    for split, later in itertools.pairwise(splits):
        states.append(model.middle(states[-1], split, later))
    return states


def _sampled_loss(
    model: SplitModel, outputs: Tensor, mask: Tensor, generator: torch.Generator
) -> Tensor:
    """Summed cross-entropy against labels, or features, drawn from the outputs themselves."""
    kept = outputs[model.compared(mask).to(outputs.device)].float()
    if model.predicts == "features":
        noise = torch.randn(kept.shape, generator=generator, device=kept.device)
        return (kept * noise / kept.detach().norm(dim=-1, keepdim=True).clamp_min(1e-15)).sum()
    labels = torch.multinomial(kept.detach().softmax(-1), 1, generator=generator)
    return functional.cross_entropy(kept, labels[:, 0], reduction="sum")


def save_sensitivity(path: Path, sensitivity: Sensitivity, meaning: dict[str, Any]) -> None:
    """Write G and the tokens' weights with their meaning as a safetensors file."""
    said = {"kind": "sensitivity", **meaning}
    tensors = {"sensitivity": sensitivity.matrix.contiguous()}
    tensors |= {name: getattr(sensitivity.weights, name).contiguous() for name in _WEIGHTS}
    sealed = said | {"crc32c": _checksum(said, tensors)}
    metadata = {"splitcodec": json.dumps(sealed)}  # of several, safetensors mixes the order
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def sensitivity_of(activations: Activations, path: Path) -> Sensitivity:
    """`load_sensitivity`; InputError if it is of another split, width or model than the store."""
    found, meaning = load_sensitivity(path)
    wanted = activations.metadata
    for what, own, due in (
        ("split", meaning.get("split"), wanted["split"]),
        ("channels", len(found.matrix), activations.channels),
        ("model", meaning.get("model_hash"), wanted["model_hash"]),
    ):
        if own != due:
            raise InputError(f"{path} is of {what} {own}, {activations.path} of {due}")
    return found


def load_sensitivity(path: Path) -> tuple[Sensitivity, dict[str, Any]]:
    """What was saved, and its meaning; InputError for a missing, damaged or foreign file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("sensitivity", *_WEIGHTS)}
        meaning = json.loads(metadata["splitcodec"])
        if meaning.pop("crc32c") != _checksum(meaning, tensors):
            raise ValueError("its checksum does not fit")
        return Sensitivity(tensors.pop("sensitivity"), TokenWeights(**tensors)), meaning
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
        raise InputError(
            f"{path} is no sensitivity file, or damaged ({reason_of(error)}); make it again"
        ) from None


def _checksum(said: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """CRC-32C of the meaning and the values, by name."""
    values = (tensors[name].contiguous().view(-1) for name in sorted(tensors))
    parts = (value.view(torch.uint8).numpy().tobytes() for value in values)
    return f"{google_crc32c.value(json.dumps(said).encode() + b''.join(parts)):08x}"
