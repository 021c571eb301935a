import pytest
import torch

from small_world import one_line, save_for, write_store
from splitcodec.activations.store import Activations
from splitcodec.codecs.registry import build_codec, load_codec
from splitcodec.coding.container import read_container
from splitcodec.errors import BitstreamError, InputError, SettingsError
from splitcodec.evaluation.bitstreams import Decoder, decode_to_store, encode


def test_the_file_says_what_it_holds(stores, codecs, bitstreams):
    container = read_container(bitstreams["int8", "zstd"])
    meaning = load_codec(codecs["int8"])[1]
    metadata = stores.split.metadata
    assert container.header == {
        "codec": "int8",
        "codec_hash": meaning["hash"],
        "coder": "zstd",
        "channels": 32,
        "model": metadata["model"],
        "split": 2,
        "partition": "evaluation",
        "data_hash": metadata["data_hash"],
        "sequences": 7,
        "tokens": stores.split.tokens,
    }
    assert container.lengths == stores.split.lengths


@pytest.mark.parametrize("name, coder", [("fine", "ans"), ("int8", "deflate"), ("fp16", "raw")])
def test_decoding_gives_what_the_codec_meant(stores, codecs, bitstreams, name, coder):
    decoder = Decoder(bitstreams[name, coder], list(codecs.values()))
    assert decoder.directory == codecs[name]
    codec, _ = load_codec(codecs[name])
    batch = stores.split.read(range(7))
    with torch.no_grad():
        expected = codec(batch.representation, batch.lengths).reconstruction
    torch.testing.assert_close(decoder.decode(range(7)), expected, rtol=1e-5, atol=1e-5)
    assert decoder.decode(range(3, 5)).shape == (2, max(stores.split.lengths[3:5]), 32)


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


def test_the_wrong_codec_is_noticed(codecs, bitstreams):
    with pytest.raises(BitstreamError, match=r"made by a klt codec with hash .* not in") as caught:
        Decoder(bitstreams["fine", "ans"], [codecs["coarse"], codecs["int8"]])
    assert one_line(caught.value)


def test_other_data_are_noticed(world, codecs, bitstreams, tmp_path):
    decoder = Decoder(bitstreams["fine", "ans"], [codecs["fine"]])
    other = world.activations(2, "validation")
    with pytest.raises(InputError, match="made from other data") as caught:
        decoder.check_same_data(other)
    assert one_line(caught.value)
    with pytest.raises(InputError, match="made from other data"):
        decode_to_store(bitstreams["fine", "ans"], codecs["fine"], other.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_data_of_the_same_lengths_are_noticed(stores, codecs, bitstreams, tmp_path):
    rows = [torch.zeros(length, 32) for length in stores.split.lengths]
    other = write_store(tmp_path / "other.parquet", rows, split=2, data_hash="other")
    with pytest.raises(InputError, match="made from other data"):
        Decoder(bitstreams["fine", "ans"], [codecs["fine"]]).check_same_data(other)


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


def test_a_damaged_file_never_decodes(codecs, bitstreams, tmp_path):
    data = bytearray(bitstreams["fine", "ans"].read_bytes())
    for place in range(0, len(data), 37):
        data[place] ^= 0x10
        (tmp_path / "a.rdc").write_bytes(data)
        with pytest.raises(BitstreamError) as caught:
            Decoder(tmp_path / "a.rdc", [codecs["fine"]])
        assert one_line(caught.value)
        data[place] ^= 0x10
