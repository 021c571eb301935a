"""From names and files to a trained codec in its folder."""

import math
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from splitcodec import __version__
from splitcodec.activations.store import Activations
from splitcodec.codecs.base import Codec, save_codec
from splitcodec.codecs.catalogue import hyperparameters_of, is_baseline
from splitcodec.codecs.hyperparameters import Hyperparameters
from splitcodec.codecs.registry import build_codec
from splitcodec.errors import InputError, SettingsError
from splitcodec.files import write_text
from splitcodec.settings import describe
from splitcodec.splitting.model import SplitModel
from splitcodec.training.fitting import FITTERS, Log, TrainingData
from splitcodec.training.sensitivity import load_sensitivity


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a codec, apart from the files it learns from."""

    name: str
    codec: str
    rate_weight: float | None
    seed: int
    hyperparameters: Hyperparameters


def recipe(
    codec: str,
    rate_weight: float | None,
    seed: int,
    changes: dict[str, Any],
    name: str | None = None,
) -> Recipe:
    """A checked recipe; raises SettingsError for an unknown codec, bad λ or hyper-parameter.

    `name` is that of its points and curve, if not the codec's own.
    """
    if is_baseline(codec):
        if rate_weight is not None:
            raise SettingsError(f"{codec} has no λ; leave --lambda out")
    elif rate_weight is None or not 0 < rate_weight < math.inf:
        raise SettingsError(f"{codec} needs --lambda above zero, got {rate_weight}")
    try:
        hyperparameters = hyperparameters_of(codec).model_validate(changes)
    except ValidationError as error:
        raise SettingsError(f"hyper-parameters of {codec}: {describe(error)}") from None
    return Recipe(name or codec, codec, rate_weight, seed, hyperparameters)


@dataclass(frozen=True)
class Material:
    """What a learned codec learns from beside the activations, and where it may resume.

    `references` and `validation` are stores; polishing needs all of them and the model.
    """

    sensitivity: Path
    checkpoint: Path
    references: Path | None = None
    validation: Path | None = None
    validation_references: Path | None = None
    model: SplitModel | None = None


def train(wanted: Recipe, activations: Path, out: Path, material: Material | None = None) -> None:
    """Fit the codec and write its folder; a baseline needs nothing but the activations' shape."""
    stored = Activations(activations)
    started = time.monotonic()
    learned = not is_baseline(wanted.codec)
    if learned:
        codec, log = _fit(wanted, stored, material)
    else:
        codec, log = build_codec(wanted.codec, stored.channels, {}), Log()
    meaning = {
        "name": wanted.name,
        "mode": "frozen" if learned else "none",
        "lambda": wanted.rate_weight,
        "seed": wanted.seed if learned else None,
        **{key: stored.metadata[key] for key in ("model", "model_hash", "split", "data_hash")},
        "train_seconds": round(time.monotonic() - started, 3),
        "versions": {"splitcodec": __version__, "torch": torch.__version__}
        | {name: version(name) for name in ("torch_ans", "transformers")},
    }
    save_codec(codec, out, meaning)
    write_text(out / "training.jsonl", log.text())


def _fit(wanted: Recipe, stored: Activations, material: Material) -> tuple[Codec, Log]:
    matrix, meaning = load_sensitivity(material.sensitivity)
    split = stored.metadata["split"]
    if meaning["split"] != split or len(matrix) != stored.channels:
        raise InputError(
            f"{material.sensitivity} is of split {meaning['split']}, {stored.path} of {split}"
        )
    data = TrainingData(stored, matrix, split, model=material.model)
    if getattr(wanted.hyperparameters, "polish_steps", 0):
        data.references, data.validation = _polishing_stores(stored, material)
    fit = FITTERS[wanted.codec]
    return fit(wanted.hyperparameters, data, wanted.rate_weight, wanted.seed, material.checkpoint)


def _polishing_stores(
    stored: Activations, material: Material
) -> tuple[Activations, tuple[Activations, Activations]]:
    """Training references, and validation store with its references."""
    needed = {
        "--model": material.model,
        "--references": material.references,
        "--validation": material.validation,
        "--validation-references": material.validation_references,
    }
    if missing := [flag for flag, value in needed.items() if value is None]:
        raise InputError(f"polishing needs {', '.join(missing)}; or --set polish_steps=0")
    references, *validation = (
        Activations(needed[flag])
        for flag in ("--references", "--validation", "--validation-references")
    )
    stored.check_same_data(references)
    validation[0].check_same_data(validation[1])
    validation[0].check_split(stored.metadata["split"])
    for final in (references, validation[1]):
        final.check_split(material.model.blocks)
    return references, tuple(validation)
