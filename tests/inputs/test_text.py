import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from splitcodec.errors import InputError, SettingsError
from splitcodec.inputs import text as module
from splitcodec.inputs.text import fetch_text
from splitcodec.settings import FilesSource


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    return path


def fetch(pattern, out, separator=None):
    fetch_text(FilesSource(kind="files", path=str(pattern)), separator, out)
    table = pq.read_table(out)
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True)), json.loads(
        table.schema.metadata[b"splitcodec"]
    )


def test_plain_files_are_documents_in_order_of_name(folder, tmp_path):
    (folder / "b.txt").write_text("second")
    (folder / "a.txt").write_text("first — with a dash", encoding="utf-8")
    (folder / "empty.txt").write_text(" \n")
    documents, meaning = fetch(folder / "*.txt", tmp_path / "documents.parquet")
    assert list(documents.items()) == [("a", "first — with a dash"), ("b", "second")]
    assert meaning["kind"] == "text"
    assert meaning["documents"] == 2
    assert meaning["source"]["path"] == str(folder / "*.txt")


def test_a_separator_cuts_files_into_numbered_documents(folder, tmp_path):
    (folder / "book.txt").write_text("CHAPTER 1\ncall me\nCHAPTER 2\n\nCHAPTER 3\nthe end\n")
    documents, _ = fetch(folder / "*.txt", tmp_path / "d.parquet", r"^CHAPTER (\d+)$")
    assert documents == {"book-0001": "\ncall me\n", "book-0002": "\nthe end\n"}


def test_json_lines_are_named_by_id_or_by_line(folder, tmp_path):
    rows = [{"text": "x", "id": "zebra"}, {"text": "y", "id": 7}, {"text": "z"}]
    (folder / "part.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    documents, _ = fetch(folder / "part.jsonl", tmp_path / "d.parquet")
    assert list(documents.items()) == [("7", "y"), ("part-00000003", "z"), ("zebra", "x")]


def test_parquet_columns_are_read(folder, tmp_path):
    pq.write_table(pa.table({"text": ["x", "y"], "id": ["b", "a"]}), folder / "p.parquet")
    documents, _ = fetch(folder / "p.parquet", tmp_path / "d.parquet")
    assert list(documents.items()) == [("a", "y"), ("b", "x")]


def test_a_package_is_a_source(wheels, tmp_path):
    source = wheels({"toy/a.txt": b"one", "toy/b.txt": b"two"}, "toy/*.txt")
    fetch_text(source, None, tmp_path / "d.parquet")
    assert pq.read_table(tmp_path / "d.parquet")["document"].to_pylist() == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_more_text_than_fits_one_run_is_sorted_all_the_same(folder, tmp_path, monkeypatch):
    names = [f"{i * 7919 % 1000:04d}" for i in range(1000)]
    rows = "\n".join(json.dumps({"id": name, "text": f"text of {name}"}) for name in names)
    (folder / "all.jsonl").write_text(rows)
    whole, meaning = fetch(folder / "all.jsonl", tmp_path / "one.parquet")
    monkeypatch.setattr(module, "_RUN_CHARACTERS", 500)
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    monkeypatch.setattr(module, "_MERGED_AT_ONCE", 4)
    parts, same = fetch(folder / "all.jsonl", tmp_path / "many.parquet")
    assert list(parts) == sorted(names) == list(whole)
    assert parts == whole
    assert same == meaning
    assert pq.ParquetFile(tmp_path / "many.parquet").num_row_groups > 10


def test_the_hash_follows_the_content(folder, tmp_path):
    (folder / "a.txt").write_text("first")
    _, before = fetch(folder / "*.txt", tmp_path / "d.parquet")
    _, again = fetch(folder / "*.txt", tmp_path / "d.parquet")
    (folder / "a.txt").write_text("First")
    _, after = fetch(folder / "*.txt", tmp_path / "d.parquet")
    assert before["sha256"] == again["sha256"] != after["sha256"]


def test_two_documents_of_one_name_are_refused(folder, tmp_path):
    for inner in ("x", "y"):
        (folder / inner).mkdir()
        (folder / inner / "a.txt").write_text("text")
    with pytest.raises(InputError, match="two documents are named 'a'; rename"):
        fetch(folder / "**/*.txt", tmp_path / "d.parquet")
    assert not (tmp_path / "d.parquet").exists()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}', r'a\.jsonl, row 2: needs a field "text"'),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl, row 2"),
        ("a.jsonl", b'{"text": 5}', r"a\.jsonl, row 1"),
        ("a.jsonl", b'{"text": "x \\ud800"}', r"a\.jsonl, row 1: has half a surrogate pair"),
        ("a.jsonl", b'{"text": "x", "id": "\\ud800"}', r"a\.jsonl, row 1: has half a surrogate"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}", r"a\.jsonl, row 1"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"a\.jsonl, row 1"),
        ("a.txt", b"\xff\xfe\x00", r"a\.txt is not UTF-8 text"),
        ("a.txt", b"  \n", "holds no text"),
        ("a.parquet", b"PAR1 but no more", r"a\.parquet is not a readable Parquet file"),
        ("a.pdf", b"%PDF", r"a\.pdf is none of \.txt"),
        ("b", b"x", "no file matches"),
    ],
)
def test_bad_files_are_named(folder, tmp_path, name, content, complaint):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        fetch(folder / "a*", tmp_path / "d.parquet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "d.parquet").exists()


def test_parquet_without_text_is_named(folder, tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), folder / "p.parquet")
    with pytest.raises(InputError, match=r'p\.parquet has no column "text"'):
        fetch(folder / "p.parquet", tmp_path / "d.parquet")


def test_a_bad_separator_is_named(folder, tmp_path):
    (folder / "a.txt").write_text("x")
    with pytest.raises(SettingsError, match=r"separator '\(' is not a regular expression"):
        fetch(folder / "*.txt", tmp_path / "d.parquet", "(")
