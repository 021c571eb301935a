"""Pixels: the pictures of a partition as a model's own image processor gives them.

Columns: document, sequence, label, pixels (uint8, channels × height × width, after resizing and
cropping). Rescaling and normalisation happen as pixels are read; their constants, the processor's,
stand in the metadata. A partition may ask for more sequences than it has pictures: the first view
of a picture is the processor's, the others are random crops, the same in every run.
"""

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from splitcodec.errors import InputError, reason_of
from splitcodec.files import atomic_path, sha256_of_file
from splitcodec.inputs.models import IMAGE_PROCESSOR, read_identity
from splitcodec.inputs.shards import Shard
from splitcodec.inputs.tables import (
    RowGroups,
    open_table,
    read_columns,
    table_writer,
    with_meaning,
)
from splitcodec.inputs.tokens import choose_documents, share_out, spread
from splitcodec.progress import progress
from splitcodec.settings import Partition

_SMALLEST_CROP, _WIDEST = 0.25, 4 / 3


@dataclass(frozen=True)
class ImageTable:
    """Pictures in file order, the name of each, and what the file says of itself."""

    path: Path
    file: pq.ParquetFile
    documents: list[str]
    metadata: dict[str, Any]

    def __len__(self) -> int:
        return len(self.documents)

    def pixels(self, row: int) -> np.ndarray:
        """(channels, height, width) uint8."""
        flat = read_columns(self.path, self.file, ["pixels"], row)["pixels"][0].as_py()
        return np.frombuffer(flat, np.uint8).reshape(self.metadata["shape"])

    def values(self, row: int) -> np.ndarray:
        """What the model reads, (channels, height, width) float32."""
        return self.normalised(self.pixels(row))

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """(channels, height, width) float32 of uint8."""
        mean, deviation = (
            np.array(self.metadata[name])[:, None, None] for name in ("mean", "deviation")
        )
        return ((pixels * self.metadata["scale"] - mean) / deviation).astype(np.float32)

    def marks(self, row: int, tokens: int) -> np.ndarray:
        """What a store says of each of the picture's tokens: its class, -1 if unknown."""
        label = read_columns(self.path, self.file, ["label"], row)["label"][0].as_py()
        return np.full(tokens, label, np.int64)


def read_pixels(path: Path) -> ImageTable:
    """Open a file of pixels; raises InputError when it is missing, damaged or another file."""
    file, metadata = open_table(path, "pixels")
    return ImageTable(
        path, file, read_columns(path, file, ["document"])["document"].to_pylist(), metadata
    )


def prepare(
    images: Path,
    model: Path,
    partition: str,
    rule: Partition,
    others: dict[str, Partition],
    out: Path,
    shard: Shard | None = None,
) -> None:
    """Write the pictures of one partition of `images`, for `model`, to the Parquet file `out`.

    A `shard` takes its part of the views, which are in order of their pictures' names.
    Raises SettingsError when the rule selects nothing or shares pictures with one of `others`,
    InputError when pictures or model are missing or damaged.
    """
    file, source = open_table(images, "images")
    names = read_columns(images, file, ["document"])["document"].to_pylist()
    chosen = choose_documents(names, partition, rule, others)
    processor = _Processor(model)
    quotas = share_out(dict.fromkeys(spread(chosen), rule.sequences), rule.sequences)
    pictures = RowGroups(images, file, file.schema_arrow.names, 1, lambda table: table)
    # Of the partition's first picture also in a shard: all must say the same.
    shape = processor.pixels(_picture(*pictures.find(min(quotas)))[0], None).shape
    meaning = {
        "model": model.name,
        "model_hash": read_identity(model)["model_hash"],
        "partition": partition,
        "shape": list(shape),
        **processor.meaning,
        "images": source,
    }
    if shard:
        meaning["shard"] = str(shard)
    fields = [("document", pa.string()), ("sequence", pa.int32()), ("label", pa.int32())]
    fields.append(("pixels", pa.binary(int(np.prod(shape)))))
    schema = with_meaning(pa.schema(fields), "pixels", meaning)
    views = [(index, view) for index in sorted(quotas) for view in range(quotas[index])]
    numbered = list(enumerate(views))[shard.share(len(views)) if shard else slice(None)]
    with atomic_path(out) as temporary, table_writer(temporary, schema) as writer:
        for sequence, (index, view) in progress(numbered, "preparing pictures"):
            crop = random.Random(f"{names[index]}/{view}") if view else None
            picture, label = _picture(*pictures.find(index))
            pixels = processor.pixels(picture, crop)
            if pixels.shape != shape:
                raise InputError(
                    f"{names[index]} becomes {pixels.shape} pixels, the first picture {shape}; set "
                    f"size or crop_size of {model / IMAGE_PROCESSOR} so that all become the same"
                )
            row = [[names[index]], [sequence], [label], [pixels.tobytes()]]
            writer.write_table(pa.table(row, schema=schema))


def _picture(group: pa.Table, place: int) -> tuple[Any, int]:
    """The picture at a place of a row group, and its class."""
    from PIL import Image

    row = {name: group[name][place].as_py() for name in group.column_names}
    try:
        picture = Image.open(io.BytesIO(row["image"]))
        if picture.mode.startswith("I;16"):  # Pillow would clip at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode in ("I", "F"):
            raise ValueError(f"its values are of mode {picture.mode}, without a largest one")
        return picture.convert("RGB"), row["label"]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{row['document']} is no picture that can be read ({reason_of(error)})"
        ) from None


class _Processor:
    """A model's image processor, in two halves: geometry here, normalisation where pixels are read.

    Always its Pillow form, so that the pixels do not depend on whether torchvision is there.
    """

    def __init__(self, model: Path) -> None:
        from transformers import AutoImageProcessor

        try:
            self._own = AutoImageProcessor.from_pretrained(
                model, backend="pil", local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                f"{model} has no image processor that loads: {reason_of(error)}"
            ) from None
        self._hash = sha256_of_file(model / IMAGE_PROCESSOR)

    @property
    def meaning(self) -> dict[str, Any]:
        """The constants of the second half."""
        own = self._own
        normal = own.do_normalize
        return {
            "scale": float(own.rescale_factor) if own.do_rescale else 1.0,
            "mean": [float(value) for value in own.image_mean] if normal else [0.0] * 3,
            "deviation": [float(value) for value in own.image_std] if normal else [1.0] * 3,
            "processor_hash": self._hash,
        }

    def pixels(self, picture: Any, crop: random.Random | None) -> np.ndarray:
        """(channels, height, width) uint8 of a picture, or of a random part of it."""
        part = picture if crop is None else _cropped(picture, crop)
        found = self._own(part, do_rescale=False, do_normalize=False, return_tensors="np")
        values = np.asarray(found["pixel_values"][0], np.float64)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _cropped(picture: Any, generator: random.Random) -> Any:
    """A part of random place and size, by half mirrored (Szegedy et al. 2015)."""
    width, height = picture.size
    area = width * height * generator.uniform(_SMALLEST_CROP, 1)
    aspect = generator.uniform(1 / _WIDEST, _WIDEST)
    wide = min(width, max(1, round((area * aspect) ** 0.5)))
    high = min(height, max(1, round((area / aspect) ** 0.5)))
    left, top = generator.randint(0, width - wide), generator.randint(0, height - high)
    part = picture.crop((left, top, left + wide, top + high))
    return part.transpose(0) if generator.random() < 0.5 else part
