import gc
import os
import threading
import warnings

import pytest
import torch

from small_world import one_line, save_for, write_store
from splitcodec.activations.store import Activations
from splitcodec.codecs.registry import build_codec, load_codec
from splitcodec.coding.container import Container, Header, write_container
from splitcodec.errors import BitstreamError, InputError, SettingsError
from splitcodec.evaluation import bitstreams as bitstreams_module
from splitcodec.evaluation.bitstreams import FileDecoder, decode_to_store, encode


def test_the_file_says_what_it_holds(stores, codecs, bitstreams):
    container = Container.open(bitstreams["int8", "zstd"])
    meaning = load_codec(codecs["int8"])[1]
    metadata = stores.split.metadata
    assert container.header == Header(
        codec="int8",
        codec_hash=meaning["hash"],
        coder="zstd",
        channels=32,
        model=metadata["model"],
        model_hash=metadata["model_hash"],
        split=2,
        longest=max(stores.split.lengths),
        partition="evaluation",
        data_hash=metadata["data_hash"],
    )
    assert container.lengths == stores.split.lengths


@pytest.mark.parametrize("name, coder", [("fine", "ans"), ("int8", "deflate"), ("fp16", "raw")])
def test_decoding_gives_what_the_codec_meant(stores, codecs, bitstreams, name, coder):
    decoder = FileDecoder(bitstreams[name, coder], list(codecs.values()))
    assert decoder.directory == codecs[name]
    codec, _ = load_codec(codecs[name])
    batch = stores.split.read(range(7))
    with torch.no_grad():
        expected = codec(batch.representation, batch.lengths).reconstruction
    torch.testing.assert_close(decoder.decode(range(7)), expected, rtol=1e-5, atol=1e-5)
    assert decoder.decode(range(3, 5)).shape == (2, max(stores.split.lengths[3:5]), 32)


def test_only_the_codec_that_made_a_file_is_loaded(codecs, bitstreams, monkeypatch):
    loaded = []

    def load(directory, coder):
        loaded.append(directory)
        return load_codec(directory, coder)

    monkeypatch.setattr(bitstreams_module, "load_codec", load)
    FileDecoder(bitstreams["fine", "ans"], list(reversed(codecs.values())))
    assert loaded == [codecs["fine"]]


def test_encoding_twice_gives_the_same_bytes(stores, codecs, bitstreams, tmp_path):
    for name, coder in (("coarse", "ans"), ("int2", "zstd")):
        encode(stores.split, codecs[name], coder, tmp_path / name)
        assert (tmp_path / name).read_bytes() == bitstreams[name, coder].read_bytes()


def test_a_decoded_store_has_the_tokens_of_the_original(stores, codecs, bitstreams, tmp_path):
    out = tmp_path / "decoded.parquet"
    decode_to_store(bitstreams["fp16", "raw"], codecs["fp16"], stores.split.path, out)
    decoded, original = Activations(out), stores.split
    found, expected = decoded.read(range(7)), original.read(range(7))
    assert torch.equal(found.tokens, expected.tokens)
    assert found.documents == expected.documents
    assert torch.equal(found.representation, expected.representation)
    assert decoded.metadata["dtype"] == "float32"
    assert decoded.metadata["decoded_from"] == "fp16-raw.rdc"


def test_a_named_pipe_is_decoded_and_closed(codecs, bitstreams, tmp_path):
    pipe, data = tmp_path / "pipe", bitstreams["int8", "zstd"].read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True)
    writer.start()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        decode_to_store(pipe, codecs["int8"], None, tmp_path / "decoded.parquet")
        gc.collect()
    writer.join(timeout=60)
    assert not any(issubclass(warning.category, ResourceWarning) for warning in warned)
    assert len(Activations(tmp_path / "decoded.parquet")) == 7


@pytest.mark.parametrize("most", [1, 2, 10**9])
def test_a_store_is_the_same_however_many_are_decoded_at_once(
    stores, codecs, bitstreams, tmp_path, monkeypatch, most
):
    monkeypatch.setattr("splitcodec.evaluation.bitstreams._MOST_AT_ONCE", most * 32 * 2)
    decode_to_store(bitstreams["int8", "zstd"], codecs["int8"], None, tmp_path / "a")
    decoded = Activations(tmp_path / "a").read(range(7)).representation
    expected = FileDecoder(bitstreams["int8", "zstd"], [codecs["int8"]]).decode(range(7))
    assert torch.equal(decoded, expected)


def test_the_wrong_codec_is_noticed(codecs, bitstreams):
    with pytest.raises(BitstreamError, match=r"made by a klt codec with hash .* not in") as caught:
        FileDecoder(bitstreams["fine", "ans"], [codecs["coarse"], codecs["int8"]])
    assert one_line(caught.value)


def test_other_data_are_noticed(world, codecs, bitstreams, tmp_path):
    decoder = FileDecoder(bitstreams["fine", "ans"], [codecs["fine"]])
    other = world.activations(2, "validation")
    with pytest.raises(InputError, match="made from other data") as caught:
        decoder.check_same_data(other)
    assert one_line(caught.value)
    with pytest.raises(InputError, match="made from other data"):
        decode_to_store(bitstreams["fine", "ans"], codecs["fine"], other.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [lambda n: n[:-1], lambda n: [*n, 3], lambda n: n[::-1]])
def test_decoding_for_a_store_of_other_lengths_is_refused(
    stores, codecs, bitstreams, tmp_path, change
):
    lengths, meaning = change(stores.split.lengths), stores.split.metadata
    rows = [torch.zeros(length, 32) for length in lengths]
    same = {key: meaning[key] for key in ("split", "data_hash", "model_hash")}
    other = write_store(tmp_path / "o.parquet", rows, **same)
    with pytest.raises(InputError, match="made from other data"):
        decode_to_store(bitstreams["fine", "ans"], codecs["fine"], other.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_data_of_the_same_lengths_are_noticed(stores, codecs, bitstreams, tmp_path):
    rows = [torch.zeros(length, 32) for length in stores.split.lengths]
    meaning = {"split": 2, "model_hash": stores.split.metadata["model_hash"]}
    other = write_store(tmp_path / "other.parquet", rows, data_hash="other", **meaning)
    with pytest.raises(InputError, match="made from other data"):
        FileDecoder(bitstreams["fine", "ans"], [codecs["fine"]]).check_same_data(other)


@pytest.mark.parametrize(
    "change, error, said",
    [
        ({"split": 1}, SettingsError, "was made for split 2"),
        ({"model_hash": "another"}, InputError, "learned with another model"),
    ],
)
def test_another_split_or_model_of_the_same_text_is_noticed(
    stores, codecs, bitstreams, tmp_path, change, error, said
):
    rows = [torch.zeros(length, 32) for length in stores.split.lengths]
    meaning = {key: stores.split.metadata[key] for key in ("split", "data_hash", "model_hash")}
    other = write_store(tmp_path / "other.parquet", rows, **{**meaning, **change})
    with pytest.raises(error, match=said):
        FileDecoder(bitstreams["fine", "ans"], [codecs["fine"]]).check_same_data(other)
    with pytest.raises(error, match=said):
        decode_to_store(bitstreams["fine", "ans"], codecs["fine"], other.path, tmp_path / "out")


def test_a_store_that_says_what_no_header_may_is_refused(stores, codecs, tmp_path):
    for text in ("x" * 2000, "two\nlines"):
        rows = [torch.zeros(3, 32)]
        known = {"split": 2, "model_hash": stores.split.metadata["model_hash"]}
        store = write_store(tmp_path / "odd.parquet", rows, **known, data_hash=text)
        with pytest.raises(
            InputError, match=r"odd\.parquet cannot be encoded.*data_hash"
        ) as caught:
            encode(store, codecs["fine"], None, tmp_path / "out")
        assert one_line(caught.value)
        assert not (tmp_path / "out").exists()


def test_one_long_payload_does_not_cost_its_size_for_all(stores, codecs, bitstreams, tmp_path):
    """The coder pads the streams that it decodes together to the longest of them."""
    container = Container.open(bitstreams["fine", "ans"])
    short = list(container.chunks())[:3]
    with write_container(tmp_path / "a.rdc", container.header) as writer:
        for tokens, payload in [*short, (1, bytes(1 << 23))]:
            writer.add(tokens, payload)
    batches = bitstreams_module._batches(Container.open(tmp_path / "a.rdc").chunks(), 16)
    assert [len(batch) for batch in batches] == [3, 1]
    with pytest.raises(BitstreamError, match="sequences 3 to 3"):
        decode_to_store(tmp_path / "a.rdc", codecs["fine"], None, tmp_path / "out")


def test_a_store_of_another_split_is_refused(world, codecs, tmp_path):
    with pytest.raises(SettingsError, match=r"made for split 2.*is split 1") as caught:
        encode(world.activations(1, "evaluation"), codecs["fine"], None, tmp_path / "out")
    assert one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_other_channels_is_refused(stores, tmp_path):
    narrow = write_store(tmp_path / "a.parquet", [torch.zeros(3, 8)], split=2)
    folder = save_for(build_codec("int4", 32, {}), stores.split, tmp_path / "codec")
    with pytest.raises(SettingsError, match=r"codes 32 channels.*has 8") as caught:
        encode(narrow, folder, None, tmp_path / "out")
    assert one_line(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_store_can_be_decoded_without_the_original(stores, codecs, bitstreams, tmp_path):
    out = tmp_path / "decoded.parquet"
    decode_to_store(bitstreams["fine", "ans"], codecs["fine"], None, out)
    decoded = Activations(out)
    expected = FileDecoder(bitstreams["fine", "ans"], [codecs["fine"]]).decode(range(7))
    found = decoded.read(range(7))
    assert torch.equal(found.representation, expected)
    assert (decoded.lengths, set(found.documents)) == (stores.split.lengths, {""})
    assert set(found.tokens[found.mask].tolist()) == {-1}
    assert decoded.metadata["data_hash"] == stores.split.metadata["data_hash"]


def test_any_sequence_is_decoded_alone_and_read_alone(codecs, bitstreams, monkeypatch):
    decoder = FileDecoder(bitstreams["fine", "ans"], [codecs["fine"]])
    whole, read = decoder.decode(range(7)), Container.read
    seen = []
    monkeypatch.setattr(Container, "read", lambda self, i: seen.append(i) or read(self, i))
    alone = decoder.decode([4])
    assert seen == [4]
    torch.testing.assert_close(alone[0], whole[4, : alone.shape[1]], rtol=1e-6, atol=1e-6)


def test_a_header_that_contradicts_the_codec_is_refused(codecs, bitstreams, tmp_path):
    container = Container.open(bitstreams["fine", "ans"])
    for change in ({"coder": "zstd"}, {"channels": 31}, {"codec": "factorised"}):
        with write_container(tmp_path / "a", container.header.model_copy(update=change)) as writer:
            writer.add(container.lengths[0], container.read(0))
        with pytest.raises(BitstreamError, match="its codec is not") as caught:
            FileDecoder(tmp_path / "a", [codecs["fine"]])
        assert one_line(caught.value)


def test_a_damaged_file_never_decodes(codecs, bitstreams, tmp_path):
    data = bytearray(bitstreams["fine", "ans"].read_bytes())
    for place in range(0, len(data), 37):
        data[place] ^= 0x10
        (tmp_path / "a.rdc").write_bytes(data)
        with pytest.raises(BitstreamError) as caught:
            FileDecoder(tmp_path / "a.rdc", [codecs["fine"]]).decode(range(7))
        assert one_line(caught.value)
        data[place] ^= 0x10
