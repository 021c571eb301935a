"""Data sets that Hugging Face's `datasets` reads, row by row: from the hub, or from a folder.

Rows come in the data set's own order, which is that of its files, and are never shuffled. Nothing
of the data is kept: a stream that breaks off is read from its beginning again.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from splitcodec.errors import InputError, reason_of
from splitcodec.settings import DatasetSource, ImageDatasetSource, TextDatasetSource

Row = dict[str, Any]
_HUB = "hf://datasets/"
_ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://")


def texts(source: TextDatasetSource) -> Iterator[tuple[str, str]]:
    """Name and text of every row; a row without a text has an empty one.

    Raises InputError when the data set cannot be had, is damaged, or lacks a column.
    """
    for number, row in _rows(source, [source.text]):
        text = row[source.text]
        if not isinstance(text, str | None):
            raise InputError(
                f"{_said(source)}, row {number}: column {source.text!r} holds no text; name another"
            )
        yield _name(source, row, number), text or ""


def pictures(source: ImageDatasetSource) -> Iterator[tuple[str, str | None, bytes]]:
    """Name, class and file of every row's picture; the class is None where nobody knows it.

    Raises InputError when the data set cannot be had, is damaged, or lacks a column.
    """
    wanted = [source.image, *([] if source.label is None else [source.label])]
    for number, row in _rows(source, wanted, source.image, ["label"]):
        label = _label(source, row.get(source.label or "label"), number)
        yield _name(source, row, number), label, _file(source, row[source.image], number)


def _rows(
    source: DatasetSource, wanted: list[str], picture: str | None = None, useful: Sequence[str] = ()
) -> Iterator[tuple[int, Row]]:
    """The rows, numbered from one on: columns that are `wanted`, and those `useful` that it has.

    The column `picture` holds files as they came, not decoded.
    """
    rows = _guarded(source, lambda: _opened(source, wanted, picture, useful))
    numbers = itertools.count(1) if source.documents is None else range(1, source.documents + 1)
    for number in numbers:
        row = _guarded(source, lambda: next(rows, None))
        if row is None:
            return
        yield number, row


def _opened(
    source: DatasetSource, wanted: list[str], picture: str | None, useful: Sequence[str]
) -> Iterator[Row]:
    # Read when the library is imported, which costs seconds that other sources need not pay.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    import datasets

    datasets.disable_progress_bars()
    folder = Path(source.dataset).is_dir()
    if folder and source.revision is not None:
        raise InputError(f"{source.dataset} is a folder, which has no revision; leave it out")
    if not folder and "/" not in source.dataset:
        # `json` and its like would make the library read the current directory.
        raise InputError(f"{source.dataset!r} is no folder, and no owner/name; correct dataset")
    stream = datasets.load_dataset(
        str(Path(source.dataset).resolve()) if folder else source.dataset,
        source.configuration,
        split=source.split,
        revision=source.revision,
        streaming=True,
    )
    names = stream.column_names or list(next(iter(stream), {}))
    needed = [*wanted, *([] if source.id is None else [source.id])]
    if missing := [column for column in needed if column not in names]:
        raise InputError(
            f"{_said(source)} has no column {missing[0]!r}; name one of {', '.join(names)}"
        )
    taken = {*needed, *useful}
    stream = stream.select_columns([name for name in names if name in taken])
    if picture is not None:
        stream = stream.cast_column(picture, datasets.Image(decode=False))
    return iter(stream)


def _guarded(source: DatasetSource, step: Callable[[], Any]) -> Any:
    """What `step` gives; any error of the libraries below it as one line with its mend."""
    try:
        return step()
    except InputError:
        raise
    except Exception as error:
        # datasets, its readers and the hub's client raise many kinds, some of them bare ValueError
        raise InputError(
            f"cannot read {_said(source)}: {reason_of(error).rstrip('.')}; {_mend(source, error)}"
        ) from None


def _mend(source: DatasetSource, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(error, DatasetNotFoundError):
        return "correct its name or revision, or, if it is not public, log in with `hf auth login`"
    if isinstance(error, FileNotFoundError):
        return "correct the name, or put data files there"
    if str(error).startswith("Bad split"):
        return "correct split"
    if str(error).startswith(("BuilderConfig", "Config name")):
        return "correct configuration"
    if isinstance(error, ValueError | RuntimeError) or Path(source.dataset).is_dir():
        return "mend its files, or name another source"
    return "check the network, or the path if it is to be a folder"


def _said(source: DatasetSource) -> str:
    return f"data set {source.dataset} ({source.split})"


def _name(source: DatasetSource, row: Row, number: int) -> str:
    return f"{number:09d}" if source.id is None else str(row[source.id])


def _label(source: ImageDatasetSource, value: object, number: int) -> str | None:
    """A class as text; numbers below zero are for pictures whose class is kept secret."""
    if value is None or (isinstance(value, int) and value < 0):
        return None
    if isinstance(value, int) and value < 1 << 31:
        return str(int(value))
    if isinstance(value, str):
        return value
    raise InputError(
        f"{_said(source)}, row {number}: {reason_of(repr(value))} is no class; name another column"
    )


def _file(source: ImageDatasetSource, value: Any, number: int) -> bytes:
    """The bytes of a picture, which a row holds or says where they are."""
    content, path = ((value or {}).get(part) for part in ("bytes", "path"))
    if content is not None:
        return content
    if path is None:
        raise InputError(f"{_said(source)}, row {number}: column {source.image!r} has no picture")
    import fsspec

    if not Path(source.dataset).is_dir() and not _in_data_set(path):
        raise InputError(f"{_said(source)}, row {number}: its picture lies outside the data set")

    def read() -> bytes:
        with fsspec.open(path, "rb") as file:
            return file.read()

    return _guarded(source, read)


def _in_data_set(path: str) -> bool:
    """Whether a path is on the hub, or in archives there: a data set of others may not name files
    of this machine, or addresses anywhere."""
    *archives, place = path.split("::")
    return place.startswith(_HUB) and all(link.startswith(_ARCHIVES) for link in archives)
