"""Where a codec's bits go, and what it does to text: for readers, not for measures.

Of some evaluated sequences: mean bits of each channel and at each position; of one passage, bits of
every token beside its surprise, −log₂ of the probability that the uncoded model gave it, and the
divergence that coding caused; of one prompt, its greedy continuation with and without the codec.
Bits are the codec's estimate, since an entropy coder's bytes belong to no single token.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from splitcodec.activations.extraction import spread_evenly
from splitcodec.activations.store import Activations, Batch
from splitcodec.bounds.rate_distortion import NATS_PER_BIT
from splitcodec.codecs.base import Codec, Estimate
from splitcodec.codecs.registry import load_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.evaluation.bitstreams import (
    check_fits,
    model_of_codec,
    representation_of,
)
from splitcodec.inference.generation import generate
from splitcodec.inputs.tokenisers import Prompts
from splitcodec.splitting.model import SplitModel
from splitcodec.training.divergence import compare_logits, logit_chunks


@dataclass(frozen=True)
class Extent:
    """How much is looked at: sequences, tokens of the passage, of the prompt, and after it."""

    sequences: int = 4
    passage: int = 160
    prompt: int = 48
    continuation: int = 40


@torch.inference_mode()
def examples(
    model: SplitModel, activations: Activations, directory: Path, prompts: Prompts, extent: Extent
) -> dict[str, Any]:
    """All of it for the codec of a directory; `model` is the original one."""
    codec, meaning = load_codec(directory)
    check_fits(codec, meaning, directory, activations)
    codec.attach(model.embedding.float().cpu())
    changed = model_of_codec(model, directory, meaning)
    rows = spread_evenly(len(activations), extent.sequences)
    batch = activations.read(rows)
    with listening(codec) as heard:
        estimate = codec(representation_of(batch, meaning, changed), batch.lengths, batch.tokens)
    sides = _Sides(model, changed, codec, meaning["split"], prompts)
    return {
        **{key: meaning[key] for key in ("model", "split", "mode", "lambda", "seed")},
        "codec": meaning["name"],
        "codec_hash": meaning["hash"],
        "partition": activations.metadata["partition"],
        "sequences": len(rows),
        "channels": {name: _by_channel(bits[batch.mask]) for name, bits in heard.items()},
        "positions": _by_position(estimate.bits, batch.mask),
        "passage": _passage(sides, batch, estimate, extent.passage),
        "continuation": _continuation(sides, batch, extent),
    }


@dataclass(frozen=True)
class _Sides:
    """The original model, the one that learned with the codec, and what lies between."""

    model: SplitModel
    changed: SplitModel
    codec: Codec
    split: int
    prompts: Prompts


@contextmanager
def listening(codec: Codec) -> Iterator[dict[str, Tensor]]:
    """What each density of a codec says of each symbol meanwhile, by the name of its tables.

    Codecs add up the bits of a token at once; their densities are asked beforehand.
    """
    heard: dict[str, Tensor] = {}
    densities = codec.densities() if isinstance(codec, TransformCodec) else {}
    for name, density in densities.items():
        density.bits = _repeating(density.bits, name, heard)
    try:
        yield heard
    finally:
        for density in densities.values():
            del density.bits


def _repeating(
    bits: Callable[..., Tensor], name: str, heard: dict[str, Tensor]
) -> Callable[..., Tensor]:
    def repeat(*arguments: Any) -> Tensor:
        heard[name] = bits(*arguments)
        return heard[name]

    return repeat


def _by_channel(bits: Tensor) -> list[float]:
    """Means of (tokens, channels), or of (tokens,)."""
    return bits.reshape(len(bits), -1).mean(0).tolist()


def _by_position(bits: Tensor, mask: Tensor) -> list[float]:
    """Means of (batch, tokens) over the sequences that reach so far."""
    columns = zip(bits.unbind(1), mask.unbind(1), strict=True)
    return [float(column[usable].mean()) for column, usable in columns]


def _passage(sides: _Sides, batch: Batch, estimate: Estimate, most: int) -> dict[str, Any]:
    """The beginning of the first sequence, a list entry a token."""
    tokens = batch.tokens[0, : min(most, int(batch.lengths[0]))]
    count = len(tokens)
    bits = estimate.bits[0, :count].tolist()
    surprise, kl = _compared(
        sides, batch.representation[:1, :count], estimate.reconstruction[:1, :count], tokens[1:]
    )
    correlation = float(spearmanr(bits[1:], surprise)[0])
    return {
        "document": batch.documents[0],
        "text": sides.prompts.pieces(tokens.tolist()),
        "bits": bits,
        # Of the first token nobody predicts anything.
        "surprise_bits": [None, *surprise],
        "kl": [None, *kl],
        "rank_correlation": None if math.isnan(correlation) else correlation,
    }


def _compared(
    sides: _Sides, original: Tensor, decoded: Tensor, labels: Tensor
) -> tuple[list[float], list[float]]:
    """Surprise of each label in bits, uncoded, and the divergence of its prediction in nats."""
    uncoded = sides.model.final_states(original, sides.split)[0, :-1]
    coded = sides.changed.final_states(decoded, sides.split)[0, :-1]
    surprise, kl = [], []
    pairs = logit_chunks((sides.model, uncoded), (sides.changed, coded))
    for part, (target, estimate) in pairs:
        compared = compare_logits(target, estimate)
        label = target.gather(-1, labels[part][:, None].to(target.device))[:, 0]
        surprise += ((compared.reference_normaliser - label) / NATS_PER_BIT).tolist()
        kl += compared.kl.tolist()
    return surprise, kl


def _continuation(sides: _Sides, batch: Batch, extent: Extent) -> dict[str, Any]:
    """Of the beginning of the last sequence, mostly of another document than the passage."""
    most = sides.model.context or math.inf
    room = int(min(extent.prompt, batch.lengths[-1], most - 1))
    prompt, prompts = batch.tokens[-1, :room], sides.prompts
    wanted = int(min(extent.continuation, most - room))
    coded = generate(sides.changed, sides.split, sides.codec, prompt, wanted, prompts.stop)
    uncoded = greedy(sides.model, prompt, wanted, prompts.stop)
    agree = [one == other for one, other in zip(coded.tokens, uncoded, strict=False)]
    return {
        "document": batch.documents[-1],
        "prompt": prompts.decode(prompt.tolist()),
        "uncoded": prompts.decode(uncoded),
        "coded": prompts.decode(coded.tokens),
        "tokens": len(coded.tokens),
        "same_tokens": [*agree, False].index(False),
        "bits_per_token": coded.bits_per_token,
    }


def greedy(model: SplitModel, prompt: Tensor, tokens: int, stop: frozenset[int]) -> list[int]:
    """What the uncoded model goes on with after `prompt` (tokens,); as `generate`."""
    cache, following, generated = model.cache(), prompt, []
    while len(generated) < tokens and not stop.intersection(generated[-1:]):
        states = model.front(following[None], model.blocks, cache)
        following = model.back(states[:, -1:], model.blocks)[0, -1].argmax()[None].cpu()
        generated.append(int(following))
    return generated
