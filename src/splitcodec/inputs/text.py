"""Text: from files of several kinds to one Parquet file of named documents.

Columns: document, text; in order of name, each name once. Texts of any size pass in bounded memory
(one plain file, or about 32 MiB of documents, at a time): documents are sorted in runs on disk,
which are merged, so many at a time, as in any external sort.
"""

import hashlib
import heapq
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from splitcodec.errors import InputError, SettingsError, reason_of
from splitcodec.files import atomic_path, matching
from splitcodec.inputs.hub import download_snapshot
from splitcodec.inputs.packages import fetch_package_files
from splitcodec.inputs.streams import texts
from splitcodec.inputs.tables import grouped, table_writer, with_meaning
from splitcodec.settings import HubSource, PackageSource, TextDatasetSource, TextSource

SCHEMA = pa.schema([("document", pa.string()), ("text", pa.string())])
_RUN_CHARACTERS = 1 << 25
_BATCH_CHARACTERS = 1 << 20
_MERGED_AT_ONCE = 64


class Document(NamedTuple):
    """A name, unique in its data set, and what is written under it."""

    name: str
    text: str


def fetch_text(source: TextSource, separator: str | None, out: Path) -> None:
    """Write the documents of `source` to the Parquet file `out`, in order of name.

    `.txt`, `.md`: a file is a document named by its stem, or, with `separator` (a regular
    expression), several: stem-0001 and so on. `.jsonl`: a line is a document, field "text", with
    its name in "id" or numbered by line. `.parquet`: columns the same. A data set: a row is a
    document.

    Raises InputError when the source cannot be had, is damaged, or two documents have one name;
    SettingsError for a bad separator.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    cut = _compiled(separator)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        runs = _sorted_runs(_documents(source, Path(scratch, "raw"), cut), Path(scratch))
        digest, count = _digest(_merged(runs))
        meaning = {
            "source": source.model_dump(),
            "separator": separator,
            "sha256": digest,
            "documents": count,
        }
        with atomic_path(out) as temporary:
            _write(temporary, _merged(runs), with_meaning(SCHEMA, "text", meaning))


def _compiled(separator: str | None) -> re.Pattern | None:
    try:
        return None if separator is None else re.compile(separator, re.MULTILINE)
    except re.error as error:
        raise SettingsError(
            f"separator {separator!r} is not a regular expression: {error}"
        ) from None


def _files_of(source: TextSource, raw: Path) -> list[Path]:
    match source:
        case PackageSource():
            files = fetch_package_files(source, raw)
        case HubSource():
            _, files = download_snapshot(source, "dataset", [source.path])
        case _:
            files = matching(source.path)
    files = sorted(path for path in files if path.is_file())
    if not files:
        raise InputError(f"no file matches {source.path!r}; correct the source's path")
    if unknown := [path.name for path in files if path.suffix not in _READERS]:
        raise InputError(f"{unknown[0]} is none of {', '.join(_READERS)}; narrow the source's path")
    return files


def _documents(source: TextSource, raw: Path, cut: re.Pattern | None) -> Iterator[Document]:
    """All documents that hold more than white space."""
    if isinstance(source, TextDatasetSource):
        documents = itertools.starmap(Document, texts(source))
    else:
        files = _files_of(source, raw)
        parts = (_READERS[file.suffix](file, cut) for file in files)
        documents = itertools.chain.from_iterable(parts)
    return (document for document in documents if document.text and not document.text.isspace())


def _read_plain(file: Path, cut: re.Pattern | None) -> Iterator[Document]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name} is not UTF-8 text ({error.reason}); convert it") from None
    if cut is None:
        yield Document(file.stem, text)
        return
    parts = (part for part in _between(text, cut) if part and not part.isspace())
    for number, part in enumerate(parts, start=1):
        yield Document(f"{file.stem}-{number:04d}", part)


def _between(text: str, cut: re.Pattern) -> Iterator[str]:
    """What lies between matches. Not re.split, which also yields what groups have captured."""
    start = 0
    for match in cut.finditer(text):
        yield text[start : match.start()]
        start = match.end()
    yield text[start:]


def _read_json_lines(file: Path, _: re.Pattern | None) -> Iterator[Document]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                text = record["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise _bad_row(file, number) from None
            yield _named(file, number, record.get("id"), text)


def _read_parquet(file: Path, _: re.Pattern | None) -> Iterator[Document]:
    number = 0
    try:
        table = pq.ParquetFile(file)
        columns = [name for name in ("id", "text") if name in table.schema_arrow.names]
        if "text" not in columns:
            raise InputError(f'{file.name} has no column "text"; rename the column that holds it')
        for batch in table.iter_batches(batch_size=256, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield _named(file, number, record.get("id"), record["text"])
    except pa.ArrowException as error:
        raise InputError(
            f"{file.name} is not a readable Parquet file: {reason_of(error)}"
        ) from None


_READERS = {
    ".txt": _read_plain,
    ".md": _read_plain,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}


def _named(file: Path, number: int, name: object, text: object) -> Document:
    if not isinstance(text, str):
        raise _bad_row(file, number)
    document = Document(f"{file.stem}-{number:08d}" if name is None else str(name), text)
    try:
        "".join(document).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{file.name}, row {number}: has half a surrogate pair, which is no text; correct it"
        ) from None
    return document


def _bad_row(file: Path, number: int) -> InputError:
    return InputError(
        f'{file.name}, row {number}: needs a field "text" that holds text; correct it'
    )


def _sorted_runs(documents: Iterable[Document], directory: Path) -> list[Path]:
    """Write documents to files, each in order of name, few enough to be merged at once."""
    runs = [
        _write_run(directory / f"run-{number}.arrow", sorted(group))
        for number, group in enumerate(grouped(documents, _characters, _RUN_CHARACTERS))
    ]
    if not runs:
        raise InputError("the source holds no text; name another")
    while len(runs) > _MERGED_AT_ONCE:
        some, runs = runs[:_MERGED_AT_ONCE], runs[_MERGED_AT_ONCE:]
        path = some[0].with_suffix(".merged.arrow")
        runs.append(_write_run(path, heapq.merge(*map(_read_run, some))))
        for run in some:
            run.unlink()
    return runs


def _write_run(path: Path, documents: Iterable[Document]) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in grouped(documents, _characters, _BATCH_CHARACTERS):
            writer.write_batch(_columns(batch))
    return path


def _merged(runs: list[Path]) -> Iterator[Document]:
    """The documents of all runs in order of name; raises InputError when a name comes twice."""
    last = None
    for document in heapq.merge(*map(_read_run, runs)):
        if document.name == last:
            raise InputError(f"two documents are named {last!r}; rename one file, or change its id")
        last = document.name
        yield document


def _read_run(path: Path) -> Iterator[Document]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            names, texts = (column.to_pylist() for column in batch.columns)
            yield from map(Document, names, texts)


def _digest(documents: Iterable[Document]) -> tuple[str, int]:
    """SHA-256 of names and texts in order, as JSON lines, and how many documents there are."""
    digest, count = hashlib.sha256(), 0
    for document in documents:
        digest.update(json.dumps(document).encode() + b"\n")
        count += 1
    return digest.hexdigest(), count


def _write(path: Path, documents: Iterable[Document], schema: pa.Schema) -> None:
    with table_writer(path, schema) as writer:
        for group in grouped(documents, _characters, _BATCH_CHARACTERS):
            writer.write_batch(_columns(group, schema))


def _columns(documents: list[Document], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    names, texts = zip(*documents, strict=True)
    return pa.record_batch([pa.array(names), pa.array(texts)], schema=schema)


def _characters(document: Document) -> int:
    return len(document.text)
