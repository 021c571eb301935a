"""Signals of positions near a boundary between two coding tables."""

import pytest
import torch
from codec_samples import fitted_hyperprior, representations
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcodec.codecs import guard
from splitcodec.codecs.guard import BOUND, Signals
from splitcodec.coding.entropy import Decoder, Encoder
from splitcodec.errors import BitstreamError

EVERYWHERE = torch.ones(2, 3, dtype=torch.bool)


def positions(*near):
    """(2, 3, 4) positions at 7, but for `near`: row, token, channel, position."""
    values = torch.full((2, 3, 4), 7.0, dtype=torch.float64)
    for row, token, channel, value in near:
        values[row, token, channel] = value
    return values


def signals_of(found, where=EVERYWHERE):
    return Signals.of(found[where], where)


def sent(signals, shape):
    encoder = Encoder()
    signals.put(encoder, torch.Size(shape))
    return encoder.finish()


def received(streams, shape):
    return Signals.pop(Decoder(streams), torch.Size(shape), torch.device("cpu"))


def test_what_is_near_a_boundary_is_signalled_and_nothing_else():
    found = positions(
        (0, 1, 2, 3.5 + BOUND / 2), (1, 0, 0, 8.5 - BOUND / 2), (1, 2, 3, 5.5 + 2 * BOUND)
    )
    signals = signals_of(found)
    assert signals.places.tolist() == [[0, 1, 2], [1, 0, 0]]
    assert signals.up.tolist() == [1, 0]
    assert torch.equal(Signals.everywhere(found).places, signals.places)
    half = EVERYWHERE.clone()
    half[1] = False
    assert signals_of(found, half).places.tolist() == [[0, 1, 2]]
    assert signals.within(half).places.tolist() == [[0, 1, 2]]
    assert signals.within(half).up.tolist() == [1]


def test_the_receiver_takes_the_senders_side_of_a_boundary():
    ours = positions((0, 1, 2, 3.5 + 1e-7), (1, 2, 0, 8.5 - 1e-7))
    theirs = positions((0, 1, 2, 3.5 - 1e-7), (1, 2, 0, 8.5 + 1e-7))
    streams = sent(signals_of(ours), ours.shape)
    signals = received(streams, ours.shape)
    expected = ours.round().to(torch.int32)
    assert torch.equal(signals.indexes(theirs), expected)
    assert not torch.equal(theirs.round().to(torch.int32), expected)
    for token in range(3):
        assert torch.equal(signals.indexes(theirs[:, token, None], token), expected[:, token, None])


@pytest.mark.parametrize("value", [3.5 + 3 * BOUND, 3.2, 4.0])
def test_a_signalled_position_that_is_not_near_is_refused(value):
    signals = signals_of(positions((0, 1, 2, 3.5)))
    with pytest.raises(BitstreamError, match=r"differently, by more than 1\.5e-05"):
        signals.indexes(positions((0, 1, 2, value)))


@given(
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 9_999), st.integers(0, 6_999)), max_size=9),
    st.integers(0, 2**9 - 1),
)
@settings(max_examples=50, deadline=None)
def test_signals_come_back_however_far_apart(places, ups):
    shape = 3, 10_000, 7_000
    ordered = torch.tensor(sorted(places), dtype=torch.int64).view(-1, 3)
    up = torch.tensor([ups >> k & 1 for k in range(len(places))], dtype=torch.int32)
    found = received(sent(Signals(ordered, up), shape), shape)
    assert torch.equal(found.places, ordered)
    assert torch.equal(found.up, up)


def test_the_bytes_of_signals_are_those_of_the_format():
    """Read by a decoder of its own in tests/golden/test_stranger.py."""
    places = torch.tensor([[0, 0, 3], [0, 2, 16], [0, 4100, 0], [0, 4999, 576]])
    encoder = Encoder()
    ups = torch.tensor([1, 0, 1, 0], dtype=torch.int32)
    Signals(places, ups).put(encoder, torch.Size((1, 5000, 577)))
    assert encoder.finish()[0].hex() == "7be64e0a007d98ed1f68fcb0aa4da83018"


def test_signals_cost_less_than_a_thousandth_of_the_rate(monkeypatch):
    codec, data = fitted_hyperprior(), representations(40, 512)
    lengths = torch.full((40,), 512)
    size = sum(map(len, codec.compress(data, lengths)))
    monkeypatch.setattr(guard, "BOUND", 0.0)
    without = sum(map(len, codec.compress(data, lengths)))
    print(f"signals cost {size / without - 1:.4%} of the rate")
    assert 0 < size - without < without / 1000


def test_no_signals_cost_next_to_nothing_and_one_some_three_bytes():
    none, one = (Signals(torch.zeros(n, 3).long(), torch.ones(n).int()) for n in (0, 1))
    assert len(sent(none, (1, 512, 300))[0]) == 4, "more than the state of the coder"
    assert len(sent(one, (1, 512, 300))[0]) <= 4 + 5


def test_damaged_signals_are_refused_or_are_others():
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        garbage = bytes(torch.randint(0, 256, (24,), generator=generator).tolist())
        try:
            signals = received([garbage], (1, 3, 4))
        except BitstreamError:
            refused += 1
            continue
        assert ((signals.places >= 0) & (signals.places < torch.tensor([1, 3, 4]))).all()
    assert refused
