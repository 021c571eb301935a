"""What all codecs and baselines ask of a batch, and what they do not look at."""

import pytest
import torch
from codec_samples import CHANNELS, LEARNED, VOCABULARY, representations, with_tokens

from splitcodec.codecs.registry import build_codec
from splitcodec.errors import InputError

LENGTHS = torch.tensor([9, 1, 5])
TOKENS = torch.arange(27).view(3, 9) % VOCABULARY
KINDS = [*LEARNED, "fp16", "int8", "int3"]


@pytest.fixture(scope="module", params=KINDS)
def codec(request):
    name = request.param
    return LEARNED[name]() if name in LEARNED else build_codec(name, CHANNELS, {})


def beyond():
    return torch.arange(9) >= LENGTHS[:, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_padding_does_not_reach_an_estimate(codec, value):
    values = representations(3, 9)
    expected = codec(values, LENGTHS)
    values[beyond()] = value
    estimate = codec(values, LENGTHS)
    torch.testing.assert_close(estimate.bits, expected.bits)
    torch.testing.assert_close(estimate.reconstruction, expected.reconstruction)


@torch.no_grad()
def test_nor_do_token_ids_that_are_padding():
    codec, values = with_tokens(), representations(3, 9)
    codec.attach(torch.randn(VOCABULARY, CHANNELS, generator=torch.Generator().manual_seed(0)))
    padded = TOKENS.where(~beyond(), -1)
    expected = codec(values, LENGTHS, TOKENS)
    assert torch.equal(codec(values, LENGTHS, padded).bits, expected.bits)
    streams = codec.compress(values, LENGTHS, padded)
    assert streams == codec.compress(values, LENGTHS, TOKENS)


def test_token_ids_that_are_not_sent_are_not_looked_at(codec):
    values = representations(3, 9)
    assert codec.compress(values, LENGTHS, TOKENS[:1, :2]) == codec.compress(values, LENGTHS)


@pytest.mark.parametrize(
    "shape, lengths, message",
    [
        ((0, 9, CHANNELS), [], "there are no sequences"),
        ((2, 9, CHANNELS), [9, 0], "a sequence has no tokens"),
        ((2, 9, CHANNELS), [9, -1], "a sequence has no tokens"),
        ((2, 9, CHANNELS), [9, 10], "lengths up to 10 of 2 sequences are not those of"),
        ((2, 9, CHANNELS), [9, 9, 9], "of 3 sequences are not those of a representation of 2"),
        ((2, 9, CHANNELS - 1), [9, 9], f"has {CHANNELS} channels, not {CHANNELS - 1}"),
    ],
)
def test_what_is_no_batch_is_refused(codec, shape, lengths, message):
    for use in (codec, codec.compress):
        with pytest.raises(InputError, match=message):
            use(torch.zeros(shape), torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize("lengths", [[], [0], [-1]])
def test_nor_is_nothing_decoded(codec, lengths):
    streams = codec.compress(representations(1, 9), torch.tensor([9]))[: len(lengths)]
    with pytest.raises(InputError, match="nothing to code"):
        codec.decompress(streams, torch.tensor(lengths, dtype=torch.int64))
