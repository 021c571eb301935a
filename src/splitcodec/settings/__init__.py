"""The parameters of an experiment: one typed model, from which `workflow/schemas` is generated.

A params file is the whole experiment; what it does not name has the default written here. Nothing
here imports torch, so that the Snakefile can read settings in milliseconds.
"""

from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from splitcodec.errors import SettingsError, reason_of
from splitcodec.settings.base import Different, Name, Seed, Strict, describe
from splitcodec.settings.codecs import Baselines, Codec, Mode, changes_front, check_mode
from splitcodec.settings.inputs import (
    DatasetSource,
    FilesSource,
    HubSource,
    ImageDatasetSource,
    Images,
    ImageSource,
    Model,
    ModelSource,
    PackageSource,
    Partition,
    RandomSource,
    Text,
    TextDatasetSource,
    TextSource,
    TrainedSource,
)
from splitcodec.settings.measures import Activations, Bounds, Evaluation, Latency, Sensitivity
from splitcodec.settings.optimisation import Optimisation, Tuning
from splitcodec.settings.tasks import Task

__all__ = [
    "DatasetSource",
    "FilesSource",
    "HubSource",
    "ImageDatasetSource",
    "ImageSource",
    "Mode",
    "ModelSource",
    "Optimisation",
    "PackageSource",
    "Partition",
    "RandomSource",
    "Settings",
    "Strict",
    "Task",
    "TextDatasetSource",
    "TextSource",
    "TrainedSource",
    "Tuning",
    "changes_front",
    "check_mode",
    "describe",
    "load_settings",
]


class Settings(Strict):
    """One experiment."""

    experiment: Name
    models: Annotated[list[Model], Different] = Field(min_length=1)
    text: Text | None = Field(None, description="for models that read text")
    images: Images | None = Field(None, description="for models that read images")
    seeds: Annotated[list[Seed], Different] = Field([0], min_length=1)
    activations: Activations = Activations()
    sensitivity: Sensitivity = Sensitivity()
    codecs: Annotated[list[Codec], Different] = Field([])
    baselines: Baselines = Baselines()
    evaluation: Evaluation = Evaluation()
    latency: Latency = Latency()
    bounds: Bounds = Bounds()
    tasks: Annotated[list[Task], Different] = Field([])

    @model_validator(mode="after")
    def starts_are_there(self) -> Self:
        """Codecs that begin from others of this experiment begin from the right ones."""
        codecs = {codec.name: codec for codec in self.codecs}
        for codec in self.codecs:
            codec.check_start(codecs, self.seeds)
        return self

    @model_validator(mode="after")
    def inputs_are_there(self) -> Self:
        """What a model reads is in the parameters; what only text has is for models of text."""
        for model in self.models:
            if getattr(self, model.reads) is None:
                raise ValueError(f"{model.name} reads {model.reads}; add the key {model.reads}")
        if all(model.reads == "text" for model in self.models):
            return self
        for codec in self.codecs:
            if getattr(codec.hyperparameters, "tokens", False) or codec.mode != "frozen":
                raise ValueError(
                    f"{codec.name}: token ids, and modes in which the model learns, are for models "
                    "that read text"
                )
        if self.tasks:
            raise ValueError(f"{self.tasks[0].name}: tasks are for models that read text")
        return self


def load_settings(values: dict | Path) -> Settings:
    """Validate parameters from a mapping or a YAML file.

    Raises SettingsError with one line that names every bad key, its place and what is allowed.
    """
    try:
        if isinstance(values, Path):
            values = yaml.safe_load(values.read_text(encoding="utf-8"))
        return Settings.model_validate(values)
    except OSError as error:
        raise SettingsError(f"cannot read parameters: {error.strerror}: {values}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{values} is not YAML: {reason_of(error)}") from None
    except ValidationError as error:
        raise SettingsError(f"parameters: {describe(error)}") from None
