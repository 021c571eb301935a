"""The rival of every split: send the picture as JPEG or WebP, and run all of the model there.

Split 0 of an image model. What is compressed is what the model reads, after resizing and cropping,
so that a picture has as many pixels as in every other point; rates are those of whole files.
"""

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from splitcodec.activations.store import Activations
from splitcodec.evaluation.fidelity import Sums
from splitcodec.evaluation.measures import measure_of
from splitcodec.inputs.pixels import ImageTable
from splitcodec.progress import progress
from splitcodec.splitting.model import SplitModel

FORMATS = ("jpeg", "webp")


@torch.inference_mode()
def evaluate_pictures(
    model: SplitModel,
    table: ImageTable,
    references: Activations,
    format: str,
    qualities: Sequence[int],
    batch_sequences: int,
    resamples: int,
) -> list[dict[str, Any]]:
    """Rate and fidelity at each quality of a format; `references` is the uncoded final store.

    Raises InputError when the pictures are not those of `references`.
    """
    references.check_split(model.blocks)
    references.check_made_from(table.path)
    return [
        _point(model, table, references, format, quality, batch_sequences, resamples)
        for quality in qualities
    ]


def _point(
    model: SplitModel,
    table: ImageTable,
    references: Activations,
    format: str,
    quality: int,
    batch_sequences: int,
    resamples: int,
) -> dict[str, Any]:
    total, measure, size, spent = Sums(), measure_of(model), 0, np.zeros(2)
    starts = range(0, len(table), batch_sequences)
    for start in progress(starts, f"evaluating {format} at {quality}"):
        rows = range(start, min(start + batch_sequences, len(table)))
        decoded = []
        for row in rows:
            pixels, count, seconds = coded(table.pixels(row), format, quality)
            decoded.append(torch.from_numpy(table.normalised(pixels)))
            size, spent = size + count, spent + seconds
        batch = references.read(rows)
        outputs = _outputs(model, model.front(torch.stack(decoded), 1), 1, batch.mask)
        uncoded = _outputs(model, batch.representation, model.blocks, batch.mask)
        labels = model.labels(batch.tokens, batch.mask).to(model.device)
        figures = measure.figures(outputs, uncoded, labels)
        total.add(batch.documents, figures, model.labelled(batch.mask).nonzero()[:, 0])
    tokens = references.tokens
    encode, decode = 1000 * spent / tokens
    return {
        "model": references.metadata["model"],
        "split": 0,
        "codec": format,
        "quality": quality,
        "partition": references.metadata["partition"],
        "tokens": tokens,
        "pictures": len(table),
        "documents": len(total.by_document),
        "bits_per_token_file": 8 * size / tokens,
        "bits_per_picture": 8 * size / len(table),
        **measure.summary(total.table(), resamples),
        "encode_ms_per_token": float(encode),
        "decode_ms_per_token": float(decode),
        "data_hash": references.metadata["data_hash"],
    }


_CAREFULLY = {
    "jpeg": [{"optimize": True}, {"optimize": True, "progressive": True}],
    "webp": [{}],  # method 6 makes smaller files, and yet needs more bits at equal divergence
}
"""Pillow's options that serve best; of several files the smallest is sent."""


def coded(pixels: np.ndarray, format: str, quality: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Pixels (3, height, width) uint8 after coding, bytes of the file, seconds to and fro."""
    started = time.perf_counter()
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    files = [_file(picture, format, quality=quality, **how) for how in _CAREFULLY[format]]
    file = min(files, key=len)
    between = time.perf_counter()
    decoded = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).transpose(2, 0, 1)
    seconds = np.array([between - started, time.perf_counter() - between])
    return decoded, len(file), seconds


def _file(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _outputs(model: SplitModel, states: Tensor, split: int, mask: Tensor) -> Tensor:
    """Outputs that are measured, (predictions, …), of the representation at `split`."""
    found = model.back(states, split).float()
    return found[model.labelled(mask).to(found.device)]
