import itertools
import math
import random
import threading
import tracemalloc

import numpy as np
import pytest
import torch

from splitcodec.codecs import quantisers
from splitcodec.codecs.registry import build_codec
from splitcodec.errors import BitstreamError, InputError, SettingsError

CHANNELS = 72  # two groups of 32 and a broken one
INTEGERS = ["int8", "int7", "int6", "int5", "int4", "int3", "int2"]
LENGTHS = torch.tensor([9, 1, 5])


def build(name, coder="raw", channels=CHANNELS):
    codec = build_codec(name, channels, {})
    codec.coder = coder
    return codec


def sample(scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-1, 1, CHANNELS)
    return scale * spread * torch.randn(3, 9, CHANNELS, generator=generator)


def round_trip(codec, values, lengths=LENGTHS):
    return codec.decompress(codec.compress(values, lengths), lengths)


@pytest.mark.parametrize("coder", ["raw", "deflate", "zstd"])
def test_nothing_may_follow_a_stream(coder):
    codec = build("int4", coder)
    streams = [stream + b"x" for stream in codec.compress(sample(), LENGTHS)]
    with pytest.raises(BitstreamError):
        codec.decompress(streams, LENGTHS)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5, 1e3])
@pytest.mark.parametrize("name", INTEGERS)
def test_errors_are_at_most_half_a_step(name, scale):
    values = sample(scale)
    decoded = round_trip(build(name), values)
    levels = 2 ** (int(name[3:]) - 1) - 1
    size = CHANNELS if name == "int8" else 32
    for start in range(0, CHANNELS, size):
        group = slice(start, start + size)
        step = values[..., group].abs().amax(-1, keepdim=True) / levels
        error = (values - decoded)[..., group].abs()
        # scales are float16: relative rounding, and near zero one of 2^-24
        bound = 0.5 * step * 1.002 + levels * 2.0**-25
        for row, length in enumerate(LENGTHS.tolist()):
            assert (error[row, :length] <= bound[row, :length]).all()


@pytest.mark.parametrize("coder", ["raw", "deflate", "zstd"])
@pytest.mark.parametrize("name", ["fp16", "int8", "int3"])
def test_threads_change_nothing_and_all_work(name, coder, monkeypatch):
    codec, threads, worked = build(name, coder), torch.get_num_threads(), set()

    def compress(data, own=quantisers._COMPRESS[coder]):
        worked.add(threading.get_ident())
        everyone_is_here.wait(timeout=60)
        return own(data)

    monkeypatch.setitem(quantisers._COMPRESS, coder, compress)
    streams, decoded = {}, {}
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            everyone_is_here = threading.Barrier(count)
            with torch.inference_mode():
                streams[count] = codec.compress(sample(), LENGTHS)
                decoded[count] = codec.decompress(streams[count], LENGTHS)
    finally:
        torch.set_num_threads(threads)
    assert streams[1] == streams[3]
    assert torch.equal(decoded[1], decoded[3])
    assert len(worked) == 4, "one, and then three at a time"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_what_is_no_number_is_refused_unless_it_is_padding(name, value):
    values = sample().requires_grad_()
    expected = build(name).compress(values, LENGTHS)
    values = values.detach().clone()
    values[1, 5, 0] = value
    assert build(name).compress(values, LENGTHS) == expected
    values[0, 5, 0] = value
    with pytest.raises(InputError, match="infinite or no number"):
        build(name).compress(values, LENGTHS)


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_nor_is_it_decoded(name):
    streams = build(name).compress(sample(), LENGTHS)
    forged = [b"\xff" * len(streams[0]), *streams[1:]]
    with pytest.raises(BitstreamError, match="no number: it is damaged"):
        build(name).decompress(forged, LENGTHS)


@pytest.mark.parametrize("name", INTEGERS)
def test_the_largest_of_a_group_and_zero_come_back(name):
    values = torch.zeros(1, 1, CHANNELS)
    values[0, 0, 3] = -48.0
    decoded = round_trip(build(name), values, torch.tensor([1]))
    torch.testing.assert_close(decoded, values, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", [*INTEGERS, "fp16"])
def test_more_bits_never_hurt_and_the_raw_size_is_the_formula(name):
    values, lengths = sample(), torch.tensor([9, 1, 5])
    streams = build(name).compress(values, lengths)
    bits = 16 if name == "fp16" else int(name[3:])
    scales = {"fp16": 0, "int8": 1}.get(name, math.ceil(CHANNELS / 32))
    for stream, length in zip(streams, lengths.tolist(), strict=True):
        assert len(stream) == 2 * length * scales + math.ceil(length * CHANNELS * bits / 8)
    estimate = build(name)(values, lengths)
    assert estimate.bits[0].unique().tolist() == [bits * CHANNELS + 16 * scales]
    assert not estimate.bits[1, 1:].any()


def test_each_bit_more_halves_the_error():
    values = sample()
    errors = [(round_trip(build(name), values) - values)[0].std() for name in INTEGERS[1:]]
    for finer, coarser in itertools.pairwise(errors):
        assert 1.6 < coarser / finer < 3.2


@pytest.mark.parametrize("name", [*INTEGERS, "fp16"])
def test_decoding_gives_the_reconstruction_of_the_estimate(name):
    values = sample()
    codec = build(name)
    estimate = codec(values, LENGTHS)
    decoded = round_trip(codec, values)
    assert torch.equal(decoded, estimate.reconstruction)
    assert not decoded[1, 1:].any()


@pytest.mark.parametrize("name", [*INTEGERS, "fp16"])
def test_all_coders_decode_alike(name):
    values = sample()
    raw = round_trip(build(name), values)
    for coder in ("deflate", "zstd"):
        assert torch.equal(round_trip(build(name, coder), values), raw)


@pytest.mark.parametrize("coder", ["deflate", "zstd"])
def test_compression_compresses_what_repeats(coder):
    values = torch.ones(1, 400, CHANNELS)
    lengths = torch.tensor([400])
    sizes = [len(build("int4", c).compress(values, lengths)[0]) for c in ("raw", coder)]
    assert sizes[1] < sizes[0] / 50


def test_fp16_is_exact_for_half_precision_and_never_infinite():
    values = sample().half().float()
    decoded = round_trip(build("fp16"), values)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(decoded[row, :length], values[row, :length])
    values[0, 0, 0], values[0, 0, 1] = 1e6, -1e6
    decoded = round_trip(build("fp16"), values)
    assert decoded[0, 0, :2].tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize("name", ["fp16", *INTEGERS])
def test_bfloat16_is_coded_as_its_values_in_float32(name):
    """In bfloat16 the largest float16 is rounded up, to what float16 takes for infinite."""
    values = sample().bfloat16()
    values[0, 0, 0], values[0, 1, 0] = 70_000, -3e38
    codec = build(name)
    assert codec.compress(values, LENGTHS) == codec.compress(values.float(), LENGTHS)
    estimate = codec(values, LENGTHS)
    assert torch.equal(round_trip(codec, values), estimate.reconstruction)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_sink_survives_and_spoils_only_its_own_group(name):
    values = sample()
    usual = round_trip(build(name), values)
    values[0, 4, 40] = 25_000
    decoded = round_trip(build(name), values)
    assert decoded[0, 4, 40].item() == pytest.approx(25_000, rel=1e-3)
    others = [t for t in range(9) if t != 4]
    assert torch.equal(decoded[0, others], usual[0, others])
    if name == "int4":
        assert torch.equal(decoded[0, 4, :32], usual[0, 4, :32])


@pytest.mark.parametrize("name", ["int8", "int3", "fp16"])
def test_streams_do_not_depend_on_padding_or_company(name):
    values = sample()
    codec = build(name, "zstd")
    streams = codec.compress(values, LENGTHS)
    spoilt = values.clone()
    spoilt[1, 1:] = 77
    assert codec.compress(spoilt, LENGTHS) == streams
    for row, length in enumerate(LENGTHS.tolist()):
        alone = codec.compress(values[row : row + 1, :length], LENGTHS[row : row + 1])
        assert alone == [streams[row]]


@pytest.mark.parametrize("coder", ["raw", "deflate", "zstd"])
@pytest.mark.parametrize("name", ["int8", "int3", "fp16"])
def test_truncated_and_foreign_streams_are_refused(name, coder):
    codec = build(name, coder)
    (stream,) = codec.compress(sample()[:1], torch.tensor([9]))
    generator = random.Random(0)
    foreign = [generator.randbytes(size) for size in (0, 1, 30, 700)]
    truncated = [stream[:size] for size in range(0, len(stream), 41)]
    other = build(name, coder).compress(sample()[:1], torch.tensor([8]))
    for bad in [*foreign, *truncated, *other]:
        with pytest.raises(BitstreamError) as caught:
            codec.decompress([bad], torch.tensor([9]))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("coder", ["deflate", "zstd"])
def test_flipped_bits_raise_nothing_else(coder):
    codec = build("int4", coder)
    (stream,) = codec.compress(sample()[:1], torch.tensor([9]))
    generator = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(stream)
        spoilt[generator.integers(len(stream))] ^= 1 << int(generator.integers(8))
        try:
            assert codec.decompress([bytes(spoilt)], torch.tensor([9])).shape == (1, 9, CHANNELS)
        except BitstreamError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("coder", ["deflate", "zstd"])
def test_a_bomb_takes_no_memory(coder):
    codec = build("fp16", coder)
    bomb = build("fp16", coder, 10_000).compress(torch.zeros(1, 500, 10_000), torch.tensor([500]))
    assert len(bomb[0]) < 50_000
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            codec.decompress(bomb, torch.tensor([9]))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["int1", "int9", "fp8", "int04"])
def test_other_widths_are_unknown(name):
    with pytest.raises(SettingsError, match=r"unknown codec.*int2 to int8"):
        build_codec(name, 8, {})
