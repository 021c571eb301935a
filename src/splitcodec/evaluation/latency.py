"""Time a token of every codec, measured in one process, one after the other, on the same data.

encode: representation in memory to bytes; decode: bytes to representation. Everything on that
path counts. *coder* is the part between symbols and bytes, *network* the rest; both sum encode
and decode. The median of several repeats after one warm-up; of a slow codec there are fewer.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from splitcodec.activations.store import Activations, Batch
from splitcodec.codecs.base import Codec
from splitcodec.codecs.registry import coders_of, load_codec
from splitcodec.coding.clock import coder_clock
from splitcodec.evaluation.bitstreams import check_fits, model_of_codec, representation_of
from splitcodec.progress import progress
from splitcodec.settings import changes_front
from splitcodec.splitting.model import SplitModel

_LONGEST = 3.0
"""Seconds after which a codec is measured no more often. The first time does not count, since it
warms up, unless it was as long as that: then there is no other."""


@torch.inference_mode()
def measure_latency(
    activations: Activations,
    codecs: list[Path],
    sequences: int,
    repeats: int,
    model: SplitModel | None = None,
) -> dict[str, Any]:
    """Milliseconds a token for every codec and coder, with the hardware they were measured on.

    `model` is the original one, needed where the front learned with a codec or
    a codec sends token ids; its time is no part.
    """
    batch = activations.read(range(min(sequences, len(activations))))
    points = []
    for directory in progress(codecs, "timing"):
        first, meaning = load_codec(directory)
        check_fits(first, meaning, directory, activations)
        front = changes_front(meaning["mode"])
        changed = model_of_codec(model, directory, meaning) if front else None
        sent = replace(batch, representation=representation_of(batch, meaning, changed))
        for coder in coders_of(meaning["codec"]):
            codec, _ = load_codec(directory, coder)
            if model:
                codec.attach(model.embedding)
            names = {"codec": meaning["name"], "variant": directory.name, "coder": coder}
            points.append({**names, **_measure(codec, sent, repeats)})
    return {
        "hardware": hardware(),
        "split": activations.metadata["split"],
        "model": activations.metadata["model"],
        "tokens": int(batch.lengths.sum()),
        "points": points,
    }


def _measure(codec: Codec, batch: Batch, repeats: int) -> dict[str, float]:
    runs, begun = [], time.perf_counter()
    while not runs or (len(runs) <= repeats and time.perf_counter() - begun < _LONGEST):
        runs.append(_run(codec, batch))
    per_token = 1000 / int(batch.lengths.sum())
    encode, decode, coder = (
        statistics.median(column) * per_token for column in zip(*(runs[1:] or runs), strict=True)
    )
    return {
        "encode_ms_per_token": encode,
        "decode_ms_per_token": decode,
        "network_ms_per_token": max(0.0, encode + decode - coder),
        "coder_ms_per_token": coder,
    }


def _run(codec: Codec, batch: Batch) -> tuple[float, float, float]:
    """Seconds to encode, to decode, and in the coder, of one batch."""
    coder_clock.reset()
    start = time.perf_counter()
    streams = codec.compress(batch.representation, batch.lengths, batch.tokens)
    middle = time.perf_counter()
    codec.decompress(streams, batch.lengths)
    end = time.perf_counter()
    return middle - start, end - middle, coder_clock.seconds


def hardware() -> dict[str, Any]:
    """What codecs are timed on: the processor, beside Deflate and Zstandard, even with a GPU."""
    return {
        "cpu": _processor(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
