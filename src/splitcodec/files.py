"""Whole files or none: every artefact is written beside its place and moved there when complete."""

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c

from splitcodec.errors import InputError

_SEAL = "crc32c"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory; rename it to `path` if the block succeeds.

    Raises InputError where a pipe or a device would be replaced.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a pipe or a device; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_sealed_json(path: Path, document: dict[str, Any]) -> None:
    """`write_json` with a checksum of the document, so that a changed number does not pass."""
    plain = json.loads(json.dumps(document, allow_nan=False))  # as it will be read
    write_json(path, plain | {_SEAL: _seal_of(plain)})


def read_json(path: Path, *keys: str) -> Any:
    """Read a JSON file.

    Raises InputError when it is missing or damaged, or lacks one of `keys`, being of another kind.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the step that makes it first") from None
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8, text that is no JSON
        raise InputError(f"{path} is not valid JSON ({error}); delete it and rerun") from None
    seal = document.pop(_SEAL, None) if isinstance(document, dict) else None
    if seal is not None and seal != _seal_of(document):
        raise InputError(f"{path} does not match its checksum; delete it and rerun")
    for key in keys:
        if not isinstance(document, dict) or key not in document:
            raise InputError(f"{path} has no {key}: name a file of the kind that is asked for")
    return document


def _seal_of(document: dict[str, Any]) -> str:
    """CRC-32C of a JSON document, however it is indented."""
    return f"{google_crc32c.value(json.dumps(document, sort_keys=True).encode()):08x}"


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matching(pattern: str) -> list[Path]:
    """The paths that a pattern matches, absolute or not, in order; `**` is any folders."""
    return sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
