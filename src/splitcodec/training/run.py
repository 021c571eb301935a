"""From names and files to a trained codec in its folder."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from splitcodec import __version__
from splitcodec.activations.store import Activations
from splitcodec.codecs.base import Codec, save_codec
from splitcodec.codecs.catalogue import (
    coder_when_learned,
    hyperparameters_of,
    is_baseline,
    middle,
)
from splitcodec.codecs.hyperparameters import Hyperparameters
from splitcodec.codecs.registry import build_codec, load_codec
from splitcodec.codecs.transform import TransformCodec
from splitcodec.devices import first_process
from splitcodec.errors import InputError, SettingsError
from splitcodec.files import atomic_path, read_json, sha256_of_file, write_text
from splitcodec.inputs.tokens import read_tokens
from splitcodec.settings import Mode, Tuning, changes_front, check_mode, describe
from splitcodec.splitting.model import SplitModel
from splitcodec.training.batches import from_stores, from_tokens, in_batches
from splitcodec.training.fitting import FITTERS, TrainingData
from splitcodec.training.log import Log
from splitcodec.training.loop import recipe_of
from splitcodec.training.sensitivity import sensitivity_of
from splitcodec.training.tuning import Changes, JointTraining, Learning, start_end_to_end


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a codec, apart from the files it learns from."""

    name: str
    codec: str
    rate_weights: tuple[float, ...]
    seed: int
    hyperparameters: Hyperparameters
    mode: Mode
    tuning: Tuning

    @property
    def rate_weight(self) -> float | None:
        """λ, the geometric mean of several; None for a baseline."""
        return middle(self.rate_weights) if self.rate_weights else None

    @property
    def tuned(self) -> bool:
        """Whether the model learns."""
        return self.mode != "frozen"

    @property
    def end_to_end(self) -> bool:
        """Whether the front learns too."""
        return changes_front(self.mode)

    @property
    def point(self) -> dict[str, Any]:
        """What the table of points will say of it, apart from model and split."""
        return {
            "codec": self.name,
            "coder": coder_when_learned(self.codec),
            "lambda": self.rate_weight,
            "seed": self.seed if self.learned else None,
        }

    @property
    def learned(self) -> bool:
        """Whether anything learns."""
        return self.tuned or not is_baseline(self.codec)

    @property
    def needs_model(self) -> bool:
        """Whether the model takes part in training."""
        wanted = (getattr(self.hyperparameters, key, 0) for key in ("tokens", "polish_steps"))
        return self.tuned or self.has_trellis or any(wanted)

    @property
    def has_trellis(self) -> bool:
        """Whether a token's channels are quantised together."""
        return self.codec == "trellis" or getattr(self.hyperparameters, "trellis", False)


def recipe(
    codec: str,
    rate_weights: Sequence[float],
    seed: int,
    changes: dict[str, Any],
    name: str | None = None,
    mode: str = "frozen",
    tuning: dict[str, Any] | None = None,
) -> Recipe:
    """A checked recipe; raises SettingsError for an unknown codec, bad λ, mode or parameter.

    A codec for several λ needs levels. `changes` are hyper-parameters and `tuning` is how the model
    learns, where they differ from the defaults; `name` is that of its points and curve, if not the
    codec's own.
    """
    kind = hyperparameters_of(codec)
    if is_baseline(codec):
        if rate_weights:
            raise SettingsError(f"{codec} has no λ; leave --lambda out")
    elif not rate_weights or not all(0 < weight < math.inf for weight in rate_weights):
        got = ", ".join(map(str, rate_weights)) or "none"
        raise SettingsError(f"{codec} needs --lambda above zero, got {got}")
    try:
        hyperparameters = kind.model_validate(changes)
    except ValidationError as error:
        raise SettingsError(f"hyper-parameters of {codec}: {describe(error)}") from None
    if tuning and mode == "frozen":
        raise SettingsError("mode frozen takes no --tune; the model does not learn in it")
    try:
        TypeAdapter(Mode).validate_python(mode)
        how = Tuning.model_validate(tuning or {})
        shared = rate_weights if len(rate_weights) > 1 else []
        check_mode(codec, mode, hyperparameters.model_dump(), shared)
    except ValidationError as error:
        raise SettingsError(f"mode {mode}: {describe(error)}") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return Recipe(name or codec, codec, tuple(rate_weights), seed, hyperparameters, mode, how)


@dataclass(frozen=True)
class Material:
    """What a codec learns from beside the activations, and where it may resume.

    `references` and `validation` are stores, `tokens` is a token file, `start` is the folder of a
    codec; what is needed depends on the mode.
    """

    checkpoint: Path
    sensitivity: Path | None = None
    references: Path | None = None
    validation: Path | None = None
    validation_references: Path | None = None
    model: SplitModel | None = None
    tokens: Path | None = None
    start: Path | None = None

    def need(self, why: str, *names: str, instead: str = "") -> None:
        """Raise InputError unless all of these are given; `instead` says what else would do."""
        if missing := [f"--{n.replace('_', '-')}" for n in names if getattr(self, n) is None]:
            raise InputError(f"{why} needs {', '.join(missing)}{instead}")


def train(
    wanted: Recipe,
    activations: Path,
    out: Path,
    material: Material | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Fit the codec and write its folder; a baseline needs nothing but the activations' shape.

    `watch` is called with each entry of the training log as it is made.
    """
    stored = Activations(activations)
    log, changes = Log(out / "training.jsonl", watch), None
    start = material.start if material else None
    before = (start / "training.jsonl").read_text(encoding="utf-8") if start else ""
    if start and not getattr(wanted.hyperparameters, "trellis", False):
        raise SettingsError("--start is for --set trellis=true; leave it out")
    if wanted.tuned:
        codec, changes = _tune(wanted, stored, material, log)
    elif wanted.learned:
        codec = _fit(wanted, stored, material, log)
    else:
        codec = build_codec(wanted.codec, stored.channels, {})
    if not first_process():
        return
    seconds = log.seconds
    if start:
        seconds += read_json(start / "codec.json").get("train_seconds", 0.0)
    meaning = {
        "name": wanted.name,
        "mode": wanted.mode if wanted.learned else "none",
        "lambda": wanted.rate_weight,
        **({"lambdas": wanted.rate_weights} if len(wanted.rate_weights) > 1 else {}),
        "seed": wanted.seed if wanted.learned else None,
        **({"tuning": wanted.tuning.model_dump()} if wanted.tuned else {}),
        **{key: stored.metadata[key] for key in ("model", "model_hash", "split", "data_hash")},
        "train_seconds": round(seconds, 3),
        "versions": {"splitcodec": __version__, "torch": torch.__version__}
        | {name: version(name) for name in ("torch_ans", "transformers")},
    }
    save_codec(codec, out, meaning, changes)
    write_text(out / "training.jsonl", before + log.text())
    if material:
        for checkpoint in (material.checkpoint, _tuning_checkpoint(material)):
            checkpoint.unlink(missing_ok=True)


def set_rate(directory: Path, rate_weight: float, out: Path) -> None:
    """Write the codec of a folder, which serves several λ, as the codec of one of them.

    Its training is shared among them, and so is the time that it took. Raises InputError for a
    codec of one λ, and SettingsError for a λ that it was not trained for.
    """
    codec, meaning = load_codec(directory)
    if "lambdas" not in meaning:
        raise InputError(f"{directory} is a codec of one λ; train it with several --lambda")
    several = sorted(meaning.pop("lambdas"))
    if not several[0] <= rate_weight <= several[-1]:
        raise SettingsError(
            f"{directory} serves λ from {several[0]:g} to {several[-1]:g}, not {rate_weight:g}"
        )
    codec.levels.set_rate(rate_weight / meaning["lambda"])
    seconds = round(meaning.get("train_seconds", 0.0) / len(several), 3)
    save_codec(codec, out, meaning | {"lambda": rate_weight, "train_seconds": seconds})
    with atomic_path(out / "training.jsonl") as temporary:
        shutil.copyfile(directory / "training.jsonl", temporary)


def _fit(wanted: Recipe, stored: Activations, material: Material, log: Log) -> Codec:
    """A codec on the frozen model's stored representation."""
    material.need("a fitted codec", "sensitivity")
    found, split = sensitivity_of(stored, material.sensitivity), stored.metadata["split"]
    if getattr(wanted.hyperparameters, "tokens", False):
        material.need("a codec that sends token ids", "model")
    data = TrainingData(stored, found, split, model=material.model)
    data.sources = [sha256_of_file(material.sensitivity)]
    polishing = not material.start and getattr(wanted.hyperparameters, "polish_steps", 0)
    if polishing:
        material.need("polishing", *_POLISHING, instead="; or --set polish_steps=0")
        data.references = _references(stored, material)
    if polishing or wanted.has_trellis:
        material.need("a trellis", *_VALIDATING)
        data.validation = _validation(stored, material)
        data.sources.append(data.validation[0].metadata["data_hash"])
    if material.start:
        data.start = _started(wanted, stored, material.start)
        log.start([])
    arguments = (data, wanted.rate_weights, wanted.seed, material.checkpoint, log)
    return FITTERS[wanted.codec](wanted.hyperparameters, *arguments)


def _started(wanted: Recipe, stored: Activations, directory: Path) -> TransformCodec:
    """The codec of a folder, if it is the wanted one before its trellis; InputError else."""
    codec, meaning = load_codec(directory)
    plain = wanted.hyperparameters.model_copy(update={"trellis": False})
    expected = {
        "codec": wanted.codec,
        "hyperparameters": plain,
        "mode": wanted.mode,
        "lambda": wanted.rate_weight,
        "lambdas": sorted(wanted.rate_weights) if len(wanted.rate_weights) > 1 else None,
        "seed": wanted.seed,
        **{key: stored.metadata[key] for key in ("model_hash", "split", "data_hash")},
    }
    found = meaning | {"hyperparameters": codec.hyperparameters}
    if "lambdas" in meaning:
        found["lambdas"] = sorted(meaning["lambdas"])
    elif codec.levels and codec.levels.base:
        raise InputError(f"{directory} was made by set-rate; --start takes what was trained")
    if other := [key for key, value in expected.items() if found.get(key) != value]:
        raise InputError(
            f"{directory} is of another {', '.join(other)}; --start takes the wanted codec, "
            "trained without trellis"
        )
    return codec


def _tune(
    wanted: Recipe, stored: Activations, material: Material, log: Log
) -> tuple[Codec, Changes]:
    """A codec and the model that learned with it."""
    by_tokens, by_kl = wanted.end_to_end, wanted.tuning.loss == "kl"
    material.need(f"mode {wanted.mode}", "model", "validation", *(["tokens"] if by_tokens else []))
    if by_kl:
        material.need("loss kl", "validation_references", *([] if by_tokens else ["references"]))
    split, original = stored.metadata["split"], material.model
    parts = (split, wanted.mode, wanted.tuning, wanted.rate_weight or 0.0, wanted.seed)
    learning = Learning(original, *parts)
    validation = Activations(material.validation)
    validation.check_split(split)
    references = _validation(stored, material)[1] if by_kl else None
    held_out = in_batches(from_stores(validation, references, original.device), len(validation))
    hyperparameters = wanted.hyperparameters.model_dump()
    if by_tokens:
        tokens = read_tokens(material.tokens)
        codec = start_end_to_end(learning, wanted.codec, hyperparameters, tokens)
        draw, total = from_tokens(tokens, original, by_kl), len(tokens.sequences)
        sources = [sha256_of_file(material.tokens)]
    else:
        fitted = not is_baseline(wanted.codec)
        codec = _fit(wanted, stored, material, log) if fitted else None
        codec = codec or build_codec(wanted.codec, stored.channels, hyperparameters)
        references = _references(stored, material) if by_kl else None
        draw, total = from_stores(stored, references, original.device), len(stored)
        sources = [stored.metadata["data_hash"]]
        sources += [sha256_of_file(material.sensitivity)] if fitted else []
    recipe = recipe_of(
        data=[stored.metadata["model_hash"], split, validation.metadata["data_hash"], *sources],
        dtypes=[str(original.dtype), stored.metadata["dtype"], validation.metadata["dtype"]],
        codec=[wanted.codec, hyperparameters],
        mode=wanted.mode,
        tuning=wanted.tuning.model_dump(),
        λ=wanted.rate_weight,
        seed=wanted.seed,
    )
    checkpoint = _tuning_checkpoint(material)
    training = JointTraining(learning, codec, draw, total, held_out)
    return training.run(recipe, checkpoint, log)


_VALIDATING = ("model", "validation", "validation_references")
_POLISHING = ("model", "references", "validation", "validation_references")


def _tuning_checkpoint(material: Material) -> Path:
    """Beside that of the fit, which must not begin again when a killed tuning goes on."""
    return material.checkpoint.with_name(material.checkpoint.name + ".tuning")


def _references(stored: Activations, material: Material) -> Activations:
    """The store of the final representation that goes with the training store."""
    references = Activations(material.references)
    stored.check_same_data(references)
    references.check_split(material.model.blocks)
    return references


def _validation(stored: Activations, material: Material) -> tuple[Activations, Activations]:
    """The validation store and its references."""
    validation = Activations(material.validation)
    references = Activations(material.validation_references)
    validation.check_same_data(references)
    validation.check_split(stored.metadata["split"])
    references.check_split(material.model.blocks)
    return validation, references
