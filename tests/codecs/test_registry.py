import json

import pytest
import torch
from codec_samples import CHANNELS, LEARNED, fitted_klt

from small_world import one_line
from splitcodec.codecs.base import save_codec
from splitcodec.codecs.registry import build_codec, coders_of, load_codec
from splitcodec.errors import InputError, SettingsError

MEANING = {"model": "m", "model_hash": "h", "split": 2, "mode": "frozen"}
MEANING |= {"lambda": 0.01, "seed": 0, "data_hash": "d"}


def build(name):
    return LEARNED[name]() if name in LEARNED else build_codec(name, CHANNELS, {})


@pytest.fixture(params=[*LEARNED, "fp16", "int8", "int3"])
def codec(request):
    return build(request.param)


@pytest.fixture
def folder(tmp_path):
    save_codec(build("klt"), tmp_path / "codec", MEANING)
    return tmp_path / "codec"


def test_a_loaded_codec_makes_the_same_streams(codec, data, tmp_path):
    save_codec(codec, tmp_path, MEANING)
    loaded, meaning = load_codec(tmp_path)
    streams = codec.compress(*data)
    assert not loaded.training
    assert loaded.compress(*data) == streams
    assert torch.equal(loaded.decompress(streams, data[1]), codec.decompress(streams, data[1]))
    assert meaning.items() >= (MEANING | {"codec": codec.name, "channels": CHANNELS}).items()
    assert loaded.hyperparameters == codec.hyperparameters


def test_saving_again_gives_the_same_hash_and_bytes(codec, tmp_path):
    save_codec(codec, tmp_path / "a", MEANING | {"train_seconds": 1.0, "versions": {"torch": "1"}})
    loaded, _ = load_codec(tmp_path / "a")
    save_codec(loaded, tmp_path / "b", MEANING | {"train_seconds": 2.0, "versions": {"torch": "2"}})
    hashes = [json.loads((tmp_path / x / "codec.json").read_text())["hash"] for x in "ab"]
    assert hashes[0] == hashes[1]
    weights = [(tmp_path / x / "codec.safetensors").read_bytes() for x in "ab"]
    assert weights[0] == weights[1]


def test_the_hash_names_weights_and_purpose(tmp_path):
    klt, other = fitted_klt(), fitted_klt()
    with torch.no_grad():
        other.synthesis[0, 0] += 1e-6
    cases = [(klt, MEANING), (other, MEANING), (klt, MEANING | {"split": 3})]
    hashes = set()
    for number, (codec, meaning) in enumerate(cases):
        save_codec(codec, tmp_path / str(number), meaning)
        hashes.add(load_codec(tmp_path / str(number))[1]["hash"])
    assert len(hashes) == 3


@pytest.mark.parametrize("name", ["int4", "fp16"])
@pytest.mark.parametrize("coder", ["raw", "deflate", "zstd"])
def test_a_baseline_is_loaded_with_the_coder_asked_for(tmp_path, data, name, coder):
    save_codec(build(name), tmp_path, MEANING)
    loaded, _ = load_codec(tmp_path, coder)
    assert loaded.coder == coder
    assert load_codec(tmp_path)[0].coder == "raw"
    decoded = loaded.decompress(loaded.compress(*data), data[1])
    assert torch.equal(decoded, loaded(*data).reconstruction)


def test_coders():
    assert coders_of("klt") == coders_of("hyperprior") == ("ans",)
    assert coders_of("int4") == coders_of("fp16") == ("raw", "deflate", "zstd")


@pytest.mark.parametrize("name, coder", [("klt", "zstd"), ("int4", "ans"), ("fp16", "lzma")])
def test_a_coder_that_the_codec_has_not(tmp_path, name, coder):
    save_codec(build(name), tmp_path, MEANING)
    with pytest.raises(InputError, match=f"{name} has no coder '{coder}'; it has") as caught:
        load_codec(tmp_path, coder)
    assert one_line(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_codec(tmp_path / "none")


def test_missing_weights(folder):
    (folder / "codec.safetensors").unlink()
    with pytest.raises(InputError, match="no readable codec") as caught:
        load_codec(folder)
    assert one_line(caught.value)


def test_truncated_weights(folder):
    weights = (folder / "codec.safetensors").read_bytes()
    for size in [0, 7, 100, len(weights) // 2, len(weights) - 1]:
        (folder / "codec.safetensors").write_bytes(weights[:size])
        with pytest.raises(InputError, match="codec") as caught:
            load_codec(folder)
        assert one_line(caught.value)


def test_a_flipped_bit_in_the_weights_is_noticed(folder):
    weights = bytearray((folder / "codec.safetensors").read_bytes())
    for place in range(len(weights) // 2, len(weights), len(weights) // 40):
        weights[place] ^= 1
        (folder / "codec.safetensors").write_bytes(weights)
        with pytest.raises(InputError, match="damaged"):
            load_codec(folder)
        weights[place] ^= 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "7", '{"codec": "klt"}', "\x00\x00"])
def test_a_codec_json_that_is_none(folder, text):
    (folder / "codec.json").write_text(text)
    with pytest.raises(InputError, match=r"codec\.json") as caught:
        load_codec(folder)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 7},
        {"channels": "many"},
        {"hyperparameters": {"shrinkage": -1}},
        {"hyperparameters": {"of": "another version"}},
        {"codec": "hyperprior", "hyperparameters": {}},
        {"codec": "int4", "hyperparameters": {}},
        {"split": 9},
    ],
)
def test_a_codec_json_that_does_not_fit_the_weights(folder, change):
    described = json.loads((folder / "codec.json").read_text())
    (folder / "codec.json").write_text(json.dumps(described | change))
    with pytest.raises(InputError) as caught:
        load_codec(folder)
    assert one_line(caught.value)


def test_weights_of_another_codec_with_a_hash_that_fits(tmp_path):
    """As a codec of an earlier version of the program would be."""
    klt = build("klt")
    klt.name = "hyperprior"
    save_codec(klt, tmp_path, MEANING)
    with pytest.raises(InputError, match="does not hold a hyperprior codec") as caught:
        load_codec(tmp_path)
    assert one_line(caught.value)


def test_an_unknown_codec(tmp_path):
    with pytest.raises(SettingsError, match="unknown codec 'vq'; known are klt, trellis, fact"):
        build_codec("vq", 8, {})
    klt = build("klt")
    klt.name = "vq"
    save_codec(klt, tmp_path, MEANING)
    with pytest.raises(SettingsError, match="unknown codec 'vq'"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"width": 1 << 20}, {"layers": 1 << 30}, {"side_channels": 1 << 30}, {"channels": 1 << 20}],
)
def test_more_weights_than_there_are_take_no_memory(tmp_path, change):
    """Even if the hash fits: what a description claims is held against the file."""
    codec = build("hyperprior")
    codec.channels = change.get("channels", CHANNELS)
    sizes = {name: value for name, value in change.items() if name != "channels"}
    codec.hyperparameters = codec.hyperparameters.model_copy(update=sizes)
    save_codec(codec, tmp_path, MEANING)
    with pytest.raises(InputError, match=r"fewer weights than|not of 1048576 channels") as caught:
        load_codec(tmp_path)
    assert one_line(caught.value)


def test_tables_that_the_coder_cannot_be_trusted_with_are_refused(tmp_path):
    for change in (1 << 20, -1):
        klt = build("klt")
        klt.latent_sizes[3] += change
        save_codec(klt, tmp_path, MEANING)
        with pytest.raises(InputError, match="coding table") as caught:
            load_codec(tmp_path)
        assert one_line(caught.value)


def _fill(name, value):
    return lambda codec: codec.state_dict()[name].flatten()[-1:].fill_(value)


@pytest.mark.parametrize(
    "name, forge, message",
    [
        ("klt", _fill("scale_index", 64), "scale_index has values"),
        ("klt", _fill("scale_index", -1), "scale_index has values"),
        ("klt", _fill("synthesis", float("nan")), "synthesis has values that are no number"),
        ("klt", _fill("mean", float("inf")), "mean has values"),
        ("klt-levels", _fill("levels.base", float("nan")), r"levels\.base has values"),
        ("hyperprior", _fill("prediction.0.weight", float("-inf")), "weight has values"),
        ("direct-access-history", _fill("sink_energy", float("nan")), "sink_energy has values"),
        ("trellis", _fill("error_weight", 1 << 30), "error_weight has values"),
        ("trellis", _fill("latent_lowest", -(1 << 28)), "of other symbols"),
        ("trellis", _fill("latent_lowest", 1 << 28), "of other symbols"),
    ],
)
def test_values_that_no_codec_has_are_refused_at_loading(tmp_path, name, forge, message):
    """Even if the hash fits: else they would be met when coding, as other errors or as none."""
    codec = build(name)
    forge(codec)
    save_codec(codec, tmp_path, MEANING)
    with pytest.raises(InputError, match=message) as caught:
        load_codec(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert one_line(caught.value)


@pytest.mark.parametrize("name", ["klt-levels", "trellis", "factorised", "hyperprior"])
def test_so_are_too_few_coding_tables(tmp_path, name):
    codec = build(name)
    for table in codec.densities():
        for part in ("cumulative", "sizes", "lowest"):
            whole = getattr(codec, f"{table}_{part}")
            setattr(codec, f"{table}_{part}", whole[:-1].clone())
    save_codec(codec, tmp_path, MEANING)
    with pytest.raises(InputError, match="of other symbols") as caught:
        load_codec(tmp_path)
    assert one_line(caught.value)
