"""What an experiment will take before it is run: jobs, GPU-hours, bytes on disk.

Arithmetic: a forward pass costs two floating-point operations a weight and token,
a training step three times that (Kaplan et al. 2020); a device does `teraflops` of them a second
at its peak, and `utilisation` of that in practice; or as many as an experiment's trainings have
reached (`measured`). Codec networks, which are small, are left out.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from splitcodec.errors import InputError, SettingsError, reason_of
from splitcodec.files import read_json
from splitcodec.settings import Mode, Settings, changes_front
from splitcodec.settings.codecs import Codec
from splitcodec.settings.inputs import Model

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Shape:
    """Of a transformer: blocks, channels, token ids."""

    blocks: int
    channels: int
    vocabulary: int

    @classmethod
    def of(cls, sizes: Iterable[str | int]) -> Self:
        """Of the three sizes; raises TypeError or ValueError for what are none."""
        shape = cls(*map(int, sizes))
        if min(shape.blocks, shape.channels, shape.vocabulary) < 1:
            raise ValueError("a shape has sizes of one or more")
        return shape

    @property
    def weights(self) -> int:
        """That a token is multiplied with: twelve matrices of channels² a block, and the head."""
        return 12 * self.blocks * self.channels**2 + self.vocabulary * self.channels


KNOWN = {
    "openai-community/gpt2": Shape(12, 768, 50257),
    "EleutherAI/pythia-160m": Shape(12, 768, 50304),
}
"""Models of params/paper.yaml, whose configuration is on the hub."""


@dataclass(frozen=True)
class Line:
    """One phase: its jobs, GPU-hours, bytes written."""

    phase: str
    jobs: int
    gpu_hours: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Device:
    """Peak in 10¹² operations a second, and the share of it that a training reaches."""

    teraflops: float
    utilisation: float

    def hours(self, operations: float) -> float:
        """For so many operations."""
        return operations / (self.teraflops * 1e12 * self.utilisation) / 3600


def shape_of(model: Model, given: dict[str, Shape], data: Path = Path("data/models")) -> Shape:
    """The shape of a model as given, as its settings say, or as it lies in `data`.

    Raises SettingsError where none of them knows, and for models that read images.
    """
    source = model.source
    if model.reads == "images":
        raise SettingsError(f"{model.name} reads images; a plan is of models that read text")
    if model.name in given:
        return given[model.name]
    if source.kind in ("trained", "random"):
        return Shape(source.blocks, source.channels, getattr(source, "vocabulary", 257))
    if found := _shape_in(data / model.name):
        return found
    if getattr(source, "repository", None) in KNOWN:
        return KNOWN[source.repository]
    raise SettingsError(
        f"the shape of {model.name} is not known before it is fetched; give "
        f"--shape {model.name}=BLOCKSxCHANNELSxVOCABULARY"
    )


def _shape_in(directory: Path) -> Shape | None:
    """The shape of the model in a directory, if its configuration says."""
    path = directory / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    names = (("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd"), ("vocab_size",))
    try:
        values = [next((config[n] for n in known if n in config), None) for known in names]
        return None if None in values else Shape.of(values)
    except (TypeError, ValueError):
        raise InputError(
            f"{path} does not describe a model; delete {directory} and rerun"
        ) from None


def plan(settings: Settings, shapes: dict[str, Shape], device: Device) -> list[Line]:
    """A line for each phase of the workflow."""
    models, text = settings.models, settings.text
    length = text.sequence_length
    tokens = {name: part.sequences * length for name, part in text.partitions.items()}
    stored = dict(tokens)
    if settings.activations.train_sequences:
        stored["train"] = min(tokens["train"], settings.activations.train_sequences * length)
    splits = sum(len(model.splits) for model in models)
    points = sum(_points(codec, settings) for codec in settings.codecs)
    baselines = len(settings.baselines.codecs)
    files = points + baselines * len(settings.baselines.coders)
    frozen = [codec for codec in settings.codecs if codec.mode == "frozen"]
    tuned = sum(_points(codec, settings) for codec in settings.codecs if codec not in frozen)
    # Examples of text are of codecs with a λ behind the original front.
    shown = any(codec.lambdas and not changes_front(codec.mode) for codec in settings.codecs)
    shared = sum(len(c.seeds or settings.seeds) for c in settings.codecs if c.shared)
    finals = len(models) * any(codec.compares_outputs for codec in settings.codecs)
    tokenising = 1 if text.shards == 1 else 2 + text.shards  # the held-out text, and what joins
    extracting = len(models) * (1 + settings.activations.shards)
    if settings.activations.shards > 1:
        extracting += splits + finals
    return [
        Line(
            "inputs",
            1 + len(models) * (1 + tokenising),
            bytes=4 * sum(tokens.values()) * len(models),
        ),
        Line(
            "activations",
            extracting + len(models),
            device.hours(sum(2 * shapes[m.name].weights * sum(stored.values()) for m in models)),
            activation_bytes(settings, shapes, stored),
        ),
        Line(
            "codecs",
            splits * (points + shared + bool(baselines)),
            device.hours(_training(settings, shapes)),
            sum(len(m.splits) * _weights_bytes(settings, shapes[m.name]) for m in models),
        ),
        Line("bitstreams", splits * (len(settings.codecs) + bool(baselines))),
        Line(
            "evaluation",
            splits * (len(frozen) + tuned + bool(baselines) + 1) + len(models),
            device.hours(
                sum(
                    2 * shapes[m.name].weights * tokens["evaluation"] * len(m.splits) * files
                    for m in models
                )
            ),
        ),
        Line("tasks", splits * len(settings.tasks) * (len(settings.codecs) + baselines)),
        Line("bounds", splits),
        Line("report", 4 + bool(settings.codecs) + shown * len(models)),
    ]


def activation_bytes(settings: Settings, shapes: dict[str, Shape], stored: dict[str, int]) -> int:
    """All stores: the stored tokens at every split, and their final representation, of the training
    text where a codec compares outputs."""
    width = _BYTES[settings.activations.dtype]
    every = final = sum(stored.values())
    if not any(codec.compares_outputs for codec in settings.codecs):
        final -= stored["train"]
    return sum(
        (len(m.splits) * every + final) * shapes[m.name].channels * width for m in settings.models
    )


def _points(codec: Codec, settings: Settings) -> int:
    return max(1, len(codec.lambdas)) * len(codec.seeds or settings.seeds)


def _training(settings: Settings, shapes: dict[str, Shape]) -> float:
    """Operations of all trainings in which a model learns."""
    total, length = 0.0, settings.text.sequence_length
    for codec in settings.codecs:
        if codec.mode == "frozen":
            continue
        tokens = codec.tuning.steps * codec.tuning.sequences * length * _points(codec, settings)
        for model in settings.models:
            for split in model.splits:
                total += tokens * _training_operations(shapes[model.name], codec.mode, split)
    return total


def _training_operations(shape: Shape, mode: Mode, split: int) -> float:
    """Of a token, where all of the model learns or what comes after the split."""
    part = 1.0 if changes_front(mode) else 1 - split / shape.blocks
    return 6 * shape.weights * part


def measured(results: Path, data: Path = Path("data/models")) -> Device:
    """The device that an experiment ran on, by what its trainings reached: the median of those in
    which a model learned, codec included.

    Raises InputError where there is none, or its model is gone.
    """
    reached = [
        found for path in results.glob("codecs/**/codec.json") if (found := _speed(path, data))
    ]
    if not reached:
        raise InputError(
            f"no model has learned in {results}; name an experiment with mode back or end-to-end"
        )
    return Device(statistics.median(reached) / 1e12, 1.0)


def _speed(path: Path, data: Path) -> float | None:
    """Operations a second of the training that made a codec, if the model learned in it."""
    meaning = read_json(path, "mode", "model")
    if meaning["mode"] in ("none", "frozen"):
        return None
    log = path.with_name("training.jsonl")
    try:
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        # The first entry has the start of everything in it.
        speeds = [e["tokens_per_second"] for e in entries if e["phase"] == "tuning"][1:]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{log} cannot be read ({reason_of(error)}); train again") from None
    shape = _shape_in(data / meaning["model"])
    if shape is None:
        raise InputError(f"{data / meaning['model']} is gone, on which {path.parent} was trained")
    operations = _training_operations(shape, meaning["mode"], meaning["split"])
    return statistics.median(speeds) * operations if speeds else None


def _weights_bytes(settings: Settings, shape: Shape) -> int:
    """Changed models at one split, in float32."""
    tuned = [codec for codec in settings.codecs if codec.mode.startswith(("end-to-end", "back"))]
    whole = [codec for codec in tuned if not codec.mode.endswith("adapters")]
    return sum(4 * shape.weights * _points(codec, settings) for codec in whole)
