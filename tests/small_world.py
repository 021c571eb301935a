"""A small random model, small texts, and everything that the early phases make of them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from splitcodec.activations.extraction import extract
from splitcodec.activations.store import Activations, ActivationWriter
from splitcodec.codecs.base import Codec, save_codec
from splitcodec.codecs.levels import TokenWeights
from splitcodec.inputs.models import fetch_model
from splitcodec.inputs.text import fetch_text
from splitcodec.inputs.tokens import TokenTable, read_tokens, tokenise
from splitcodec.settings import FilesSource, Partition, RandomSource
from splitcodec.splitting.model import SplitModel
from splitcodec.training.sensitivity import Sensitivity

SEQUENCE_LENGTH = 48
# Documents shorter than a sequence make the stores ragged.
LENGTHS = {
    "train": [400, 30, 300, 41, 500, 250],
    "validation": [200, 35],
    "evaluation": [150, 20, 33, 160],
}
SEQUENCES = {"train": 24, "validation": 4, "evaluation": 7}


def uniform(matrix: torch.Tensor) -> Sensitivity:
    """A sensitivity with this matrix, to which all tokens count alike."""
    ones = torch.ones(len(matrix), dtype=torch.float64)
    return Sensitivity(matrix, TokenWeights.flat(0 * ones, ones))


@dataclass(frozen=True)
class World:
    """Paths of all artefacts, and the model."""

    folder: Path

    @property
    def model_directory(self) -> Path:
        return self.folder / "model"

    @cached_property
    def model(self) -> SplitModel:
        return SplitModel.load(self.model_directory)

    @property
    def documents(self) -> Path:
        return self.folder / "documents.parquet"

    def tokens(self, partition: str) -> Path:
        return self.folder / "tokens" / f"{partition}.parquet"

    def token_table(self, partition: str) -> TokenTable:
        return read_tokens(self.tokens(partition))

    def store(self, split: int, partition: str) -> Path:
        return self.folder / f"split{split}" / f"{partition}.parquet"

    def activations(self, split: int, partition: str) -> Activations:
        return Activations(self.store(split, partition))


def build_world(folder: Path) -> World:
    """Three blocks of 32 channels; representations of all three partitions at every split."""
    world = World(folder)
    source = RandomSource(kind="random", architecture="llama", blocks=3, channels=32, heads=4)
    fetch_model(source, world.model_directory)
    write_texts(folder / "text")
    fetch_text(FilesSource(kind="files", path=f"{folder}/text/*.txt"), None, world.documents)
    for partition, sequences in SEQUENCES.items():
        rule = Partition(documents=[f"{partition}-*"], sequences=sequences)
        out = world.tokens(partition)
        model = world.model_directory
        tokenise(world.documents, model, partition, rule, {}, SEQUENCE_LENGTH, True, out)
        outputs = {split: world.store(split, partition) for split in (1, 2, 3)}
        extract(world.model, out, outputs, torch.float16, batch_sequences=4)
    return world


def write_texts(folder: Path) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    words = [
        "".join(generator.choice(list("aeioulnrst"), generator.integers(2, 8))) for _ in range(99)
    ]
    for partition, lengths in LENGTHS.items():
        for number, length in enumerate(lengths):
            text = " ".join(generator.choice(words, length))[:length]
            (folder / f"{partition}-{number}.txt").write_text(text)


def write_store(
    path: Path,
    sequences: list[torch.Tensor],
    dtype: torch.dtype = torch.float32,
    a_document: int = 1,
    **meaning,
) -> Activations:
    """A store of given representations, each (tokens, channels), `a_document` in each document."""
    known = dict(model="m", model_hash="h", data_hash="d", split=1, partition="train")
    channels = sequences[0].shape[1]
    with ActivationWriter(path, channels, dtype, known | meaning) as writer:
        for row, values in enumerate(sequences):
            writer.write(f"document{row // a_document}", row, torch.arange(len(values)), values)
    return Activations(path)


def save_for(codec: Codec, activations: Activations, directory: Path, **meaning) -> Path:
    """The folder of a codec as training on `activations` would leave it."""
    known = {key: activations.metadata[key] for key in ("model", "model_hash", "split")}
    save_codec(codec, directory, known | {"mode": "frozen", "lambda": 0.01, "seed": 0} | meaning)
    return directory


def gaussian_covariance(channels: int, seed: int = 0, decay: float = 0.6) -> torch.Tensor:
    """A full covariance with geometrically falling eigenvalues, float64."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(
        torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    )
    values = decay ** torch.arange(channels, dtype=torch.float64)
    return basis * values @ basis.T


def one_line(error: BaseException) -> bool:
    return str(error) != "" and "\n" not in str(error)
