"""Downstream accuracy of a model with each of several codecs inside, and of the plain model."""

from pathlib import Path
from typing import Any

import numpy as np

from splitcodec.codecs.base import load_state
from splitcodec.codecs.registry import coders_of
from splitcodec.inference.scoring import Scorer, accuracies, read_items, summarise
from splitcodec.inference.wrapped import with_codec
from splitcodec.inputs.tokenisers import load_tokeniser
from splitcodec.settings import Task
from splitcodec.splitting.model import SplitModel


def run_task(
    task: Task,
    model: SplitModel,
    directory: Path,
    codecs: list[Path],
    batch_sequences: int,
    resamples: int,
    start_token: bool = True,
) -> list[dict[str, Any]]:
    """Accuracy with each codec inside, its interval, the plain model's, and bits a token.

    `model` was loaded from `directory`, which has the tokeniser. Bits are of real streams, by the
    strongest coder of each codec. Raises InputError where codec and model do not fit, or the task
    cannot be had.
    """
    _, tokeniser = load_tokeniser(directory)

    def measure(which: Any) -> tuple[np.ndarray, float | None]:
        scorer = Scorer(which, tokeniser, batch_sequences, start_token)
        values = _values(task, scorer)
        return values, scorer.bits_per_token

    plain, _ = measure(model.model)
    rows = []
    for folder in codecs:
        meaning, _ = load_state(folder)
        coder = coders_of(meaning["codec"])[-1]
        coded = with_codec(model.model, folder, coder)
        values, bits = measure(coded)
        rows.append(
            {
                "task": task.name,
                "codec_hash": meaning["hash"],
                "coder": coder,
                **summarise(values, resamples),
                "accuracy_uncoded": float(plain.mean()),
                "bits_per_token": bits,
            }
        )
    return rows


def _values(task: Task, scorer: Scorer) -> np.ndarray:
    if task.kind == "files":
        return accuracies(scorer, read_items(task.path, task.items))
    # Imported here: lm_eval is an extra.
    from splitcodec.inference.harness import harness_accuracies

    return harness_accuracies(scorer, task.task, task.metric, task.items, task.filter)
