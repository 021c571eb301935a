"""Data sets in folders of this machine, read by `datasets` as it reads those of the hub."""

import io
import itertools
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from small_world import one_line
from splitcodec.errors import InputError
from splitcodec.inputs import images as images_module
from splitcodec.inputs import streams
from splitcodec.inputs.images import fetch_images
from splitcodec.inputs.text import fetch_text
from splitcodec.settings import ImageDatasetSource, ImageSource, TextDatasetSource


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    return path


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def text_source(folder, **change):
    return TextDatasetSource(**{"kind": "dataset", "dataset": str(folder), **change})


def texts_of(folder, out, **change):
    fetch_text(text_source(folder, **change), None, out)
    table = pq.read_table(out)
    names, texts = (table[name].to_pylist() for name in ("document", "text"))
    return dict(zip(names, texts, strict=True))


def write_lines(folder, files=3, rows=4):
    for file in range(files):
        lines = [{"text": f"{file}-{row}", "key": f"k{row}{file}"} for row in range(rows)]
        (folder / f"{file}.jsonl").write_text("\n".join(map(json.dumps, lines)))


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder, shades, labels, name="train"):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    files = [{"bytes": png(shade), "path": f"{shade}.png"} for shade in shades]
    table = pa.table({"image": pa.array(files, kind), "label": labels})
    pq.write_table(table, folder / f"{name}.parquet")


def pictures_of(folder, out, prefix="", **change):
    inner = ImageDatasetSource(**{"kind": "dataset", "dataset": str(folder), **change})
    fetch_images([ImageSource(source=inner, prefix=prefix)], out)
    rows = pq.read_table(out).to_pylist()
    return [(row["document"], row["label"], row["image"]) for row in rows]


def test_rows_are_documents_numbered_in_the_order_of_the_files(folder, tmp_path):
    write_lines(folder)
    found = texts_of(folder, tmp_path / "d.parquet")
    expected = [f"{file}-{row}" for file in range(3) for row in range(4)]
    assert list(found.items()) == [(f"{i:09d}", text) for i, text in enumerate(expected, start=1)]


def test_columns_are_those_that_are_named(folder, tmp_path):
    write_lines(folder, files=2, rows=2)
    found = texts_of(folder, tmp_path / "d.parquet", text="key", id="text")
    assert found == {"0-0": "k00", "0-1": "k10", "1-0": "k01", "1-1": "k11"}


def test_empty_rows_are_no_documents_and_keep_their_number(folder, tmp_path):
    pq.write_table(pa.table({"text": ["a", " \n", None, "b"]}), folder / "train.parquet")
    assert texts_of(folder, tmp_path / "d.parquet") == {"000000001": "a", "000000004": "b"}


def test_the_same_source_gives_the_same_bytes(folder, tmp_path):
    write_lines(folder)
    for name in ("a.parquet", "b.parquet"):
        texts_of(folder, tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_sample_is_the_beginning_and_the_rest_is_not_read(folder, tmp_path):
    write_lines(folder)
    (folder / "2.jsonl").write_text("no JSON")
    found = texts_of(folder, tmp_path / "d.parquet", documents=5)
    assert list(found.values()) == ["0-0", "0-1", "0-2", "0-3", "1-0"]
    with pytest.raises(InputError, match="JSON parse error"):
        texts_of(folder, tmp_path / "d.parquet")


def test_rows_are_taken_one_by_one_as_they_are_wanted(folder, monkeypatch):
    read = []

    class Endless:
        column_names = ("text",)

        def select_columns(self, names):
            return self

        def __iter__(self):
            return ({"text": str(read.append(n) or n)} for n in itertools.count())

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **how: Endless())
    stream = streams.texts(text_source(folder))
    assert [next(stream) for _ in range(3)][-1] == ("000000003", "2")
    assert read == [0, 1, 2]


def test_a_folder_is_a_folder_whatever_its_name(tmp_path, monkeypatch):
    (tmp_path / "json").mkdir()
    write_lines(tmp_path / "json", files=1, rows=1)
    (tmp_path / "other.jsonl").write_text(json.dumps({"text": "of the current directory"}))
    monkeypatch.chdir(tmp_path)
    assert list(texts_of("json", tmp_path / "d.parquet").values()) == ["0-0"]


def test_a_split_and_a_configuration_are_chosen(folder, tmp_path):
    for part in ("train", "test"):
        (folder / f"{part}.jsonl").write_text(json.dumps({"text": part}))
    assert list(texts_of(folder, tmp_path / "d.parquet", split="test").values()) == ["test"]
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: train.jsonl\n"
        "- config_name: two\n  data_files: test.jsonl\n---\n"
    )
    assert list(texts_of(folder, tmp_path / "d", configuration="two").values()) == ["test"]
    with pytest.raises(InputError, match=r"Config name is missing.*; correct configuration$"):
        texts_of(folder, tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": "body"}, r"has no column 'body'; name one of text, key$"),
        ({"id": "name"}, r"has no column 'name'; name one of text, key$"),
        ({"split": "test"}, r"Bad split: test\. Available splits: \['train'\]; correct split$"),
        ({"configuration": "x"}, r"'x' not found.*; correct configuration$"),
        ({"revision": "main"}, r"is a folder, which has no revision; leave it out$"),
        ({"dataset": "json"}, r"'json' is no folder, and no owner/name; correct dataset$"),
        ({"dataset": "/nowhere/at/all"}, r"correct the name, or put data files there$"),
    ],
)
def test_what_a_data_set_does_not_have_is_named(folder, tmp_path, change, complaint):
    write_lines(folder)
    with pytest.raises(InputError, match=complaint) as error:
        texts_of(folder, tmp_path / "d.parquet", **change)
    assert one_line(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "JSON parse error"),
        ("a.jsonl", b'{"text": 5}', "row 1: column 'text' holds no text; name another"),
        ("a.parquet", b"PAR1 but no more", "mend its files, or name another source"),
        ("a.txt", b"\xff\xfe", "mend its files, or name another source"),
        ("mine.py", b"raise SystemExit", "scripts are no longer supported"),
        ("a.jsonl", b'{"text": ""}', "holds no text"),
        (".hidden", b"", "put data files there"),
    ],
)
def test_damaged_files_are_one_clear_error(folder, tmp_path, name, content, complaint):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        texts_of(folder, tmp_path / "d.parquet")
    assert one_line(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_network_is_one_clear_error(offline, tmp_path):
    with pytest.raises(InputError, match=r"data set lab/toy \(train\): .*; check the network"):
        texts_of("lab/toy", tmp_path / "d.parquet")
    assert list(tmp_path.iterdir()) == []


def test_what_the_hub_refuses_says_how_to_log_in(tmp_path, monkeypatch):
    def refuse(*_, **how):
        assert "trust_remote_code" not in how
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'lab/toy' is gated.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match=r"is gated; .* log in with `hf auth login`"):
        texts_of("lab/toy", tmp_path / "d.parquet")


def test_a_stream_that_breaks_off_leaves_nothing(folder, tmp_path, monkeypatch):
    write_lines(folder)
    load = datasets.load_dataset

    def breaking(*given, **how):
        def broken(row, number):
            if number == 7:
                raise ConnectionResetError("the line is dead")
            return row

        return load(*given, **how).map(broken, with_indices=True)

    monkeypatch.setattr(datasets, "load_dataset", breaking)
    with pytest.raises(InputError, match="the line is dead"):
        texts_of(folder, tmp_path / "d.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_pictures_come_as_they_are_with_their_classes(folder, tmp_path):
    write_pictures(folder, [1, 2, 3, 1], pa.array([7, 0, -1, 5], pa.int64()))
    found = pictures_of(folder, tmp_path / "i.parquet", prefix="p")
    assert found == [
        ("p000000001", 7, png(1)),
        ("p000000002", 0, png(2)),
        ("p000000003", -1, png(3)),
    ]  # the fourth is the first again


def test_names_of_classes_are_numbered_in_their_order(folder, tmp_path):
    write_pictures(folder, [1, 2, 3], ["dog", "cat", None])
    assert [row[1] for row in pictures_of(folder, tmp_path / "i.parquet")] == [1, 0, -1]
    found = pictures_of(folder, tmp_path / "i.parquet", id="label", label="label", documents=2)
    assert [row[:2] for row in found] == [("cat", 0), ("dog", 1)]


def test_a_folder_of_folders_is_a_data_set_of_pictures(folder, tmp_path):
    for number, name in enumerate(("tench", "ant", "bee")):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "train" / name / "0.png").write_bytes(png(number))
    found = pictures_of(folder, tmp_path / "i.parquet")
    assert [(label, content) for _, label, content in found] == [
        (0, png(1)),
        (1, png(2)),
        (2, png(0)),
    ]


def test_pictures_in_many_row_groups_are_the_same(folder, tmp_path, monkeypatch):
    write_pictures(folder, range(20), list(range(20)))
    whole = pictures_of(folder, tmp_path / "one.parquet")
    monkeypatch.setattr(images_module, "_GROUP_BYTES", 3 * len(png(0)))
    assert pictures_of(folder, tmp_path / "many.parquet") == whole
    groups = [pq.ParquetFile(tmp_path / name).num_row_groups for name in
              ("one.parquet", "many.parquet")]  # fmt: skip
    assert groups == [1, 7]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image": "picture"}, r"no column 'picture'; name one of image, label$"),
        ({"label": "class"}, r"no column 'class'; name one of image, label$"),
        ({"label": "image"}, "row 1: .* is no class; name another column"),
    ],
)
def test_columns_of_pictures_that_are_not_there_are_named(folder, tmp_path, change, complaint):
    write_pictures(folder, [1], [1])
    with pytest.raises(InputError, match=complaint) as error:
        pictures_of(folder, tmp_path / "i.parquet", **change)
    assert one_line(error.value)


def test_a_row_without_a_picture_is_named(folder, tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for value, complaint in ((None, "row 1: column 'image' has no picture"),
                             ({"bytes": None, "path": "gone.png"}, "gone.png")):  # fmt: skip
        pq.write_table(pa.table({"image": pa.array([value], kind)}), folder / "train.parquet")
        with pytest.raises(InputError, match=complaint):
            pictures_of(folder, tmp_path / "i.parquet")


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "file://{}::hf://datasets/a/b/c",
        "local://{}::hf://datasets/x",
        "zip://hf://datasets/a::file://{}",
        "http://127.0.0.1/a?x=hf://datasets/",
    ],
)
def test_a_data_set_of_others_names_no_file_of_this_machine(form, folder, tmp_path, monkeypatch):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": None, "path": form.format(secret)}], kind)
    pq.write_table(pa.table({"image": rows}), folder / "train.parquet")
    if form == "{}":
        assert [row[2] for row in pictures_of(folder, tmp_path / "i.parquet")] == [png(9)]
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda _, *a, **how: load(str(folder), *a, **how))
    with pytest.raises(InputError, match="row 1: its picture lies outside the data set"):
        pictures_of("lab/toy", tmp_path / "j.parquet")


def test_files_of_the_hub_and_in_archives_there_belong_to_their_data_set():
    assert streams._in_data_set("hf://datasets/lab/toy@main/a.png")
    assert streams._in_data_set("zip://a.png::hf://datasets/lab/toy@main/a.zip")
