"""What must hold for every codec that codes a transformed representation."""

import random

import pytest
import torch
from codec_samples import (
    CHANNELS,
    FIRST_MEAN,
    fitted_direct_access,
    fitted_hyperprior,
    representations,
)

from splitcodec.codecs.channelwise import ChannelwiseCodec
from splitcodec.codecs.trellis import Trellis
from splitcodec.errors import BitstreamError, InputError
from splitcodec.inference.examples import listening


def forward(codec, representation, lengths):
    with torch.no_grad():
        return codec(representation, lengths)


def test_decoding_gives_the_reconstruction_of_the_estimate(learned, data):
    estimate = forward(learned, *data)
    streams = learned.compress(*data)
    decoded = learned.decompress(streams, data[1])
    assert len(streams) == 8
    assert decoded.shape == data[0].shape
    if isinstance(learned, ChannelwiseCodec | Trellis):
        assert torch.equal(decoded, estimate.reconstruction)
    else:
        error = (decoded - estimate.reconstruction).norm() / decoded.norm()
        assert error < 1e-4
    relative = (decoded - data[0])[0].norm() / data[0][0].norm()
    assert relative < 0.1, "the reconstruction has little to do with the input"


def test_a_codec_that_was_used_in_inference_mode_estimates_outside_it(learned, data):
    with torch.inference_mode():
        learned.compress(*data)
    values = data[0].clone().requires_grad_()
    assert learned(values, data[1]).reconstruction.isfinite().all()


def test_densities_say_what_each_symbol_costs(learned, data):
    """The report shows where the bits go, so they are those of the estimate."""
    with listening(learned) as heard:
        estimate = forward(learned, *data)
    every = sum(bits.flatten(2).sum(-1) if bits.ndim > 2 else bits for bits in heard.values())
    mask = torch.arange(data[0].shape[1]) < data[1][:, None]
    torch.testing.assert_close(every * mask, estimate.bits)


def test_beyond_a_sequences_end_all_is_zero(learned, data):
    estimate = forward(learned, *data)
    decoded = learned.decompress(learned.compress(*data), data[1])
    for row, length in enumerate(data[1].tolist()):
        assert not decoded[row, length:].any()
        assert not estimate.reconstruction[row, length:].any()
        assert not estimate.bits[row, length:].any()
        assert (estimate.bits[row, :length] > 0).all()


def test_padding_batch_and_order_do_not_change_the_streams(learned, data):
    representation, lengths = data
    streams = learned.compress(representation, lengths)
    garbage = representation.clone()
    for row, length in enumerate(lengths.tolist()):
        garbage[row, length:] = 1e4
    assert learned.compress(garbage, lengths) == streams, "padding is coded"
    longer = torch.nn.functional.pad(representation, (0, 0, 0, 9))
    assert learned.compress(longer, lengths) == streams
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    moved = learned.compress(representation[order], lengths[order])
    assert moved == [streams[row] for row in order]
    for row, length in enumerate(lengths.tolist()):
        alone = learned.compress(representation[row : row + 1, :length], lengths[row : row + 1])
        assert alone == [streams[row]]


def test_streams_decode_in_any_company(learned, data):
    streams = learned.compress(*data)
    together = learned.decompress(streams, data[1])
    for rows in ([3], [7, 1], [1], [6, 4, 2]):
        lengths = data[1][rows]
        apart = learned.decompress([streams[row] for row in rows], lengths)
        assert apart.shape[1] == int(lengths.max())
        torch.testing.assert_close(apart, together[rows, : apart.shape[1]], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_streams_do_not_depend_on_the_number_of_threads(learned, data, threads):
    before = torch.get_num_threads()
    streams = learned.compress(*data)
    try:
        torch.set_num_threads(threads)
        assert learned.compress(*data) == streams
        learned.decompress(streams, data[1])
    finally:
        torch.set_num_threads(before)


def test_the_estimate_is_the_size_of_the_streams(learned):
    representation, lengths = representations(2, 400), torch.tensor([400, 400])
    estimated = forward(learned, representation, lengths).bits.sum().item()
    streams = learned.compress(representation, lengths)
    # a checksum, and the state of each of the one or two coders with its length
    bits = 8 * sum(len(stream) - 8 for stream in streams)  # checksum and the coder's state
    assert bits == pytest.approx(estimated, rel=0.01)


def test_the_first_position_has_a_mean_of_its_own(learned, data):
    bits = forward(learned, *data).bits
    if isinstance(learned, ChannelwiseCodec | Trellis):
        level = 16 if learned.levels else 0  # which may be a rare one
        assert bits[0, 0] <= bits[0, 1:].min() + level + 1e-3
    decoded = learned.decompress(learned.compress(*data), data[1])
    torch.testing.assert_close(decoded[:, 0].mean(0), FIRST_MEAN.float(), rtol=0.02, atol=0)


@pytest.mark.parametrize("value", [25_000.0, -25_000.0])
def test_a_sink_at_any_token_survives(learned, data, value):
    representation = data[0].clone()
    # along a direction that is coded: what is dropped is lost for sinks as for others
    direction = learned.synthesis[:, 0].detach()
    sink = value * direction / direction.abs().max()
    representation[3, 17] = sink
    streams = learned.compress(representation, data[1])
    decoded = learned.decompress(streams, data[1])
    assert (decoded[3, 17] - sink).norm() / sink.norm() < 0.02
    others = torch.arange(40) != 17
    usual = learned.decompress(learned.compress(*data), data[1])
    if isinstance(learned, ChannelwiseCodec | Trellis):
        assert torch.equal(decoded[3, others], usual[3, others])
    assert len(streams[3]) - len(learned.compress(*data)[3]) < 200


def test_damage_raises_one_kind_of_error_or_changes_nothing(learned, data):
    generator = random.Random(0)
    streams = learned.compress(*data)
    decoded = learned.decompress(streams, data[1])
    refused = 0
    for trial in range(160):
        row = generator.randrange(8)
        spoilt = bytearray(streams[row])
        if trial % 4 == 0:
            spoilt = spoilt[: generator.randrange(len(spoilt))]
        elif trial % 4 == 1:
            spoilt = bytearray(generator.randbytes(generator.randrange(200)))
        else:
            spoilt[generator.randrange(len(spoilt))] ^= generator.randrange(1, 256)
        try:
            found = learned.decompress([bytes(spoilt)], data[1][row : row + 1])
        except BitstreamError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        torch.testing.assert_close(found, decoded[row : row + 1, : found.shape[1]])
    assert refused > 150


def test_a_stream_longer_than_its_tokens_can_need_is_refused_before_it_takes_memory(learned):
    values, length = representations(1, 3), torch.tensor([3])
    values[0, 1:] = 1e5 * torch.randn(2, CHANNELS, generator=torch.Generator().manual_seed(0))
    (stream,) = learned.compress(values, length)  # escapes everywhere
    learned.decompress([stream], length)
    longest = 12 * (3 * learned.symbols_a_token + 2)
    assert len(stream) - 4 < longest
    with pytest.raises(BitstreamError, match="is too long for 3 tokens: it is damaged"):
        learned.decompress([stream.ljust(4 + longest + 1, b"x")], length)


def test_a_stream_of_another_length_is_refused(learned, data):
    streams = learned.compress(*data)
    for length in (22, 24, 40):
        with pytest.raises(BitstreamError):
            learned.decompress([streams[2]], torch.tensor([length]))


def test_the_estimate_is_causal(learned, data):
    representation, lengths = data
    changed = representation.clone()
    changed[0, 20:] += 5
    before, after = forward(learned, *data), forward(learned, changed, lengths)
    torch.testing.assert_close(before.bits[0, :20], after.bits[0, :20])
    torch.testing.assert_close(before.reconstruction[0, :20], after.reconstruction[0, :20])
    assert not torch.allclose(before.bits[0, 20:], after.bits[0, 20:])


def test_a_prefix_decodes_to_the_same_as_the_whole(learned, data):
    """Causal coding: the first tokens of a sequence do not depend on what follows."""
    whole = learned.decompress(learned.compress(*data), data[1])
    length = torch.tensor([15])
    prefix = learned.decompress(learned.compress(data[0][:1, :15], length), length)
    torch.testing.assert_close(prefix[0], whole[0, :15], rtol=1e-5, atol=1e-4)


def test_one_codec_cannot_read_anothers_streams(data):
    ours, theirs = fitted_hyperprior(seed=0), fitted_hyperprior(seed=1)
    streams = ours.compress(*data)
    with pytest.raises(BitstreamError, match="the codec differs"):
        theirs.decompress(streams, data[1])


def test_the_channels_are_those_of_the_representation(learned):
    assert learned.channels == CHANNELS
    assert learned.analysis.shape == (learned.kept, CHANNELS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_unless_it_is_padding(learned, data, value):
    representation, lengths = data[0].clone(), data[1]
    expected = learned.compress(representation, lengths)
    representation[1, 5, 0] = value  # behind the end of a sequence of one token
    assert learned.compress(representation, lengths) == expected
    representation[0, 5, 0] = value
    with pytest.raises(InputError, match="no number"):
        learned.compress(representation, lengths)


def test_bits_of_what_is_no_number_are_none(learned, data):
    representation, lengths = data[0].clone(), data[1]
    representation[0, 39] = float("nan")
    bits = forward(learned, representation, lengths).bits
    assert bits[0, 39].isnan()
    assert not bits[1:].isnan().any()


def test_streams_are_those_of_as_many_sequences(learned, data):
    streams = learned.compress(*data)
    for count in (3, 9):
        lengths = torch.full((count,), 4)
        with pytest.raises(BitstreamError, match=f"8 streams are not those of {count} sequences"):
            learned.decompress(streams, lengths)


def test_another_number_of_channels_is_refused(learned, data):
    with pytest.raises(InputError, match=f"the codec has {CHANNELS} channels, not {CHANNELS - 1}"):
        learned.compress(data[0][..., 1:], data[1])


@pytest.mark.parametrize("trellis", [False, True])
def test_the_finest_steps_are_coded_exactly_or_refused(trellis):
    codec = fitted_direct_access(trellis=trellis, side_channels=0, levels=16)
    codec.levels.base.fill_(-16.0)
    codec.levels.weight.zero_()
    representation, length, refused = representations(1, 6), torch.tensor([6]), []
    for power in range(10, 30):
        representation[0, 3] = 2.0**power * codec.analysis[0] / codec.analysis[0].norm() ** 2
        try:
            streams = codec.compress(representation, length)
        except InputError:
            refused.append(power)
            continue
        decoded = codec.decompress(streams, length)[0, 3] @ codec.analysis[0]
        longer = float(codec.table_gain.max())
        assert 2.0**power * 0.99 - 20 < decoded < 2.0**power * longer * 1.01 + 20
    assert refused == list(range(refused[0], 30))


def test_values_are_coded_exactly_or_refused(learned, data):
    representation, lengths = data[0].clone(), data[1]
    refused = 0
    for power in range(10, 40, 3):
        representation[0, 5] = 2.0**power
        try:
            streams = learned.compress(representation, lengths)
        except InputError as error:
            assert "too large to be coded" in str(error)
            refused += 1
            continue
        assert not refused
        decoded = learned.decompress(streams, lengths)[0, 5]
        projected = representation[0, 5] @ learned.analysis.T @ learned.synthesis.T
        if learned.table_gain is not None:  # what a trellis decodes longer is so by a table's gain
            projected, decoded = projected @ learned.analysis.T, decoded @ learned.analysis.T
            longer = float(learned.table_gain.max()) - 1
            assert longer <= 0.5
            assert ((decoded - projected).abs() <= (longer + 1e-3) * projected.abs() + 20).all()
            continue
        assert torch.allclose(decoded, projected, rtol=1e-3, atol=20.0)
    assert 0 < refused < 10
