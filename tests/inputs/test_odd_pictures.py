"""Pictures that are odd, damaged or of several sources, on their way to pixels."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from splitcodec.errors import InputError
from splitcodec.files import write_json
from splitcodec.inputs.images import fetch_images
from splitcodec.inputs.model_inputs import read_inputs
from splitcodec.inputs.pixels import prepare
from splitcodec.settings import FilesSource, ImageSource, Partition


def fetched(folder, pictures, **source):
    """The classes of pictures (by path) of one source, or of one a folder."""
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    sources = [
        ImageSource(
            source=FilesSource(kind="files", path=f"{folder}/{part}/*/*"), prefix=part, **source
        )
        for part in sorted({name.split("/")[0] for name in pictures})
    ]
    fetch_images(sources, folder / "images.parquet")
    table = pq.read_table(folder / "images.parquet")
    return dict(zip(table["document"].to_pylist(), table["label"].to_pylist(), strict=True))


def plain(grey, size=(20, 20)):
    return Image.new("RGB", size, (grey, grey, grey))


def test_classes_of_several_sources_have_the_same_numbers(tmp_path):
    names = ["a/ant/1.png", "a/bee/2.png", "b/bee/3.png", "b/cat/4.png"]
    pictures = {name: plain(grey) for grey, name in enumerate(names)}
    found = fetched(tmp_path, pictures, label=r"/(\w+)/\d+\.png")
    assert found == {"a1": 0, "a2": 1, "b3": 1, "b4": 2}


@pytest.mark.parametrize(
    "names, complaint",
    [
        (["a/7/1.png", "a/bee/2.png"], "numbers, such as '7', and others names, such as 'bee'"),
        (["a/20240101123456/1.png"], "20240101123456 is too large a number"),
    ],
)
def test_classes_that_cannot_be_numbered_are_refused(tmp_path, names, complaint):
    with pytest.raises(InputError, match=complaint):
        fetched(
            tmp_path,
            {name: plain(grey) for grey, name in enumerate(names)},
            label=r"/(\w+)/\d+\.png",
        )


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "train1 is no picture"),
        (b"BM" + bytes(60), "train1 is no picture"),
    ],
)
def test_damaged_pictures_are_named(tmp_path, data, complaint):
    with pytest.raises(InputError, match=complaint):
        prepared(tmp_path, {"train1.png": data})


def prepared(folder, files, **size):
    """Pixels (pictures, 3, height, width) of files, by a processor to `size`."""
    (folder / "model").mkdir()
    ViTImageProcessorPil(size=size or {"height": 32, "width": 32}).save_pretrained(folder / "model")
    write_json(folder / "model/splitcodec.json", {"kind": "model", "model_hash": "1"})
    for name, data in files.items():
        (folder / name).write_bytes(data)
    source = ImageSource(source=FilesSource(kind="files", path=f"{folder}/*.png"))
    fetch_images([source], folder / "images.parquet")
    rule = Partition(documents=["*"], sequences=len(files))
    prepare(folder / "images.parquet", folder / "model", "train", rule, {}, folder / "pixels")
    table = read_inputs(folder / "pixels")
    return np.stack([table.pixels(row) for row in range(len(table))])


def png_of(picture):
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def test_grey_pictures_of_sixteen_bits_keep_their_grey(tmp_path):
    grey = Image.fromarray(np.full((20, 20), 30_000, np.uint16))
    assert np.abs(prepared(tmp_path, {"train1.png": png_of(grey)}) - 117.0).max() <= 1


def test_pictures_too_large_to_be_read_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="train1 is no picture that can be read"):
        prepared(tmp_path, {"train1.png": png_of(plain(5))})


def test_pictures_that_do_not_become_equally_large_are_named(tmp_path):
    files = {"a.png": png_of(plain(5, (96, 64))), "b.png": png_of(plain(6, (64, 96)))}
    with pytest.raises(InputError, match=r"b becomes \(3, 48, 32\) pixels, the first picture"):
        prepared(tmp_path, files, shortest_edge=32)
