"""Token by token as all at once."""

import pytest
import torch
from codec_samples import CHANNELS, LEARNED, representations

from splitcodec.codecs.registry import build_codec
from splitcodec.errors import BitstreamError, InputError

TOKENS = 90
DATA = representations(1, TOKENS)
LENGTH = torch.tensor([TOKENS])


def pieces(*sizes):
    assert sum(sizes) == TOKENS
    return DATA[0].split(list(sizes))


@pytest.mark.parametrize("sizes", [[1] * TOKENS, [40] + [1] * 50, [30, 1, 59], [TOKENS]])
def test_symbols_of_a_stream_are_those_of_the_whole_sequence(learned, sizes):
    _, whole = learned.write(DATA, LENGTH)
    past, parts = learned.start(), []
    with torch.no_grad():
        for piece in pieces(*sizes):
            symbols = learned.write(piece[None], torch.tensor([len(piece)]), None, past)[1]
            parts.append([part[0] for part in symbols])
    for kind, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[kind] for part in parts]), expected[0])


@pytest.mark.parametrize("sizes", [[1] * TOKENS, [40] + [1] * 50])
def test_packets_decode_in_order_to_what_the_whole_sequence_gives(learned, sizes):
    sender, receiver = learned.stream(), learned.stream()
    decoded = []
    for piece in pieces(*sizes):
        packet = sender.encode(piece)
        decoded.append(receiver.decode(packet, len(piece)))
    whole = learned.decompress(learned.compress(DATA, LENGTH), LENGTH)[0]
    torch.testing.assert_close(torch.cat(decoded), whole, rtol=1e-5, atol=1e-3)


def test_a_packet_costs_at_most_six_bytes_more_than_its_share(learned):
    sender = learned.stream()
    packets = sum(len(sender.encode(piece)) for piece in pieces(*[1] * TOKENS))
    (whole,) = learned.compress(DATA, LENGTH)
    assert packets - len(whole) < 6 * TOKENS


MODES = [torch.inference_mode, torch.enable_grad]


@pytest.mark.parametrize("first, then", [MODES, MODES[::-1]])
def test_a_stream_goes_on_in_any_mode_of_torch(learned, first, then):
    with first():
        sender, receiver = learned.stream(), learned.stream()
        receiver.decode(sender.encode(DATA[0, :80]), 80)
    with then():
        for token in DATA[0, 80:].split(1):
            decoded = receiver.decode(sender.encode(token))
    whole = learned.decompress(learned.compress(DATA, LENGTH), LENGTH)[0]
    torch.testing.assert_close(decoded[0], whole[-1], rtol=1e-5, atol=1e-3)


BASELINES = [("fp16", "raw"), ("int8", "zstd"), ("int4", "deflate")]


def baseline(name, coder):
    codec = build_codec(name, CHANNELS, {})
    codec.coder = coder
    return codec


@pytest.mark.parametrize("name, coder", BASELINES)
def test_baselines_stream_too(name, coder):
    codec = baseline(name, coder)
    sender, receiver = codec.stream(), codec.stream()
    packets = [(sender.encode(piece), len(piece)) for piece in pieces(40, *[1] * 50)]
    decoded = torch.cat([receiver.decode(packet, count) for packet, count in packets])
    with torch.no_grad():
        torch.testing.assert_close(decoded, codec(DATA, LENGTH).reconstruction[0])


@pytest.fixture(params=[*LEARNED, *(name for name, _ in BASELINES)])
def any_codec(request):
    name = request.param
    return LEARNED[name]() if name in LEARNED else baseline(name, dict(BASELINES)[name])


def test_a_packet_out_of_order_is_refused(any_codec):
    sender, receiver = any_codec.stream(), any_codec.stream()
    first, second = (sender.encode(piece) for piece in pieces(45, 45))
    receiver.decode(first, 45)
    with pytest.raises(BitstreamError):
        receiver.decode(first, 45)
    with pytest.raises(BitstreamError):
        any_codec.stream().decode(second, 45)


def test_a_damaged_packet_is_refused_and_may_be_sent_again(any_codec):
    sender, receiver = any_codec.stream(), any_codec.stream()
    for piece in pieces(20, 30, 40):
        packet, count = sender.encode(piece), len(piece)
        flipped = (
            packet[:i] + bytes([packet[i] ^ 1]) + packet[i + 1 :] for i in (0, 7, -1 % count)
        )
        for spoilt in (b"", packet[:1], packet[:5], *flipped, packet[:-1], packet + b"\0"):
            with pytest.raises(BitstreamError) as caught:
                receiver.decode(spoilt, count)
            assert "\n" not in str(caught.value)
        assert receiver.decode(packet, count).shape == piece.shape


def test_what_cannot_be_encoded_leaves_a_stream_as_it_was(any_codec):
    sender, other = any_codec.stream(), any_codec.stream()
    first, second = pieces(45, 45)
    assert sender.encode(first) == other.encode(first)
    if any_codec.coder == "ans":
        with pytest.raises(InputError):
            sender.encode(second * float("nan"))
    assert sender.encode(second) == other.encode(second)


def test_every_learned_codec_is_meant():
    assert {"klt", "trellis", "factorised", "hyperprior", "direct-access"} <= set(LEARNED)
