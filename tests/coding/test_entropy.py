import contextlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcodec.coding import entropy
from splitcodec.coding.clock import coder_clock
from splitcodec.coding.entropy import (
    PRECISION,
    Decoder,
    Tables,
    check_tables,
    decode,
    encode,
    quantise_tables,
)
from splitcodec.densities.location_scale import Gaussian, table_scales
from splitcodec.errors import BitstreamError

GAUSSIAN = Gaussian()
TABLES = GAUSSIAN.tables()
FAR = 1 << 24


def int32(values):
    return torch.tensor(values, dtype=torch.int32)


def entropy_of(symbols, indexes, tables):
    """Ideal code length in bits of symbols that lie inside their tables."""
    rows = symbols - tables.lowest[indexes.long()]
    starts = tables.cumulative[indexes.long(), rows.long()]
    ends = tables.cumulative[indexes.long(), rows.long() + 1]
    return -((ends - starts).double() / (1 << PRECISION)).log2().sum().item()


@st.composite
def cases(draw):
    """Random tables and ragged rows of symbols, some far outside their tables."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    weights = np.random.default_rng(draw(st.integers(0, 2**32)))
    power = draw(st.sampled_from([1, 4, 40]))
    vectors = [torch.from_numpy(weights.random(size) ** power + 1e-12) for size in sizes]
    vectors = [vector / vector.sum() for vector in vectors]
    lowest = [draw(st.integers(-1000, 1000)) for _ in sizes]
    tables = quantise_tables(vectors, lowest)
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(0, 30))
    index = st.integers(-1, len(sizes) - 1)
    indexes = draw(st.lists(index, min_size=rows * columns, max_size=rows * columns))
    near, far = st.integers(-45, 45), st.integers(-FAR, FAR)
    symbols = [
        0 if i < 0 else draw(st.one_of(near.map(lambda s, i=i: s + lowest[i]), far))
        for i in indexes
    ]
    shape = (rows, columns)
    return int32(symbols).view(shape), int32(indexes).view(shape), tables


@given(cases())
@settings(max_examples=150, deadline=None)
def test_all_symbols_come_back(case):
    symbols, indexes, tables = case
    streams = encode(symbols, indexes, tables)
    assert len(streams) == len(symbols)
    assert torch.equal(decode(streams, indexes, tables), symbols)


@given(cases(), st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=100, deadline=None)
def test_symbols_come_back_in_pieces_as_in_one(case, cuts):
    symbols, indexes, tables = case
    decoder = Decoder(encode(symbols, indexes, tables))
    edges = sorted({0, symbols.shape[1], *(min(cut, symbols.shape[1]) for cut in cuts)})
    pieces = [decoder.pop(indexes[:, a:b], tables) for a, b in itertools.pairwise(edges)]
    found = torch.cat(pieces, 1) if pieces else torch.zeros_like(symbols)
    assert torch.equal(found, symbols)


def test_who_asks_for_one_symbol_after_the_other_is_told_soon_that_there_are_no_more():
    tables = quantise_tables([torch.tensor([0.5, 0.5])], [0])
    decoder = Decoder(encode(int32([[0, 1, 1]]), int32([[0, 0, 0]]), tables))
    with pytest.raises(BitstreamError, match="ends before its symbols"):
        for _ in range(5000):
            decoder.pop(int32([[0]]), tables)
    decoder = Decoder(encode(int32([[0, 1, 1]]), int32([[0, 0, 0]]), tables))
    decoder.pop(int32([[0] * 40]), tables)
    with pytest.raises(BitstreamError, match="ends before its symbols"):
        decoder.finish()


@given(cases())
@settings(max_examples=50, deadline=None)
def test_a_stream_does_not_depend_on_its_neighbours_or_its_padding(case):
    symbols, indexes, tables = case
    together = encode(symbols, indexes, tables)
    for row, stream in enumerate(together):
        kept = indexes[row] >= 0
        alone = encode(symbols[row, kept][None], indexes[row, kept][None], tables)
        assert alone == [stream]


@given(cases())
@settings(max_examples=50, deadline=None)
def test_what_lies_at_skipped_places_is_ignored(case):
    symbols, indexes, tables = case
    spoilt = torch.where(indexes < 0, 12345, symbols)
    assert encode(spoilt, indexes, tables) == encode(symbols, indexes, tables)


@pytest.mark.parametrize("symbol", [FAR, -FAR, 1 << 30, -(1 << 30)])
@pytest.mark.parametrize("table", [0, 63])
def test_a_sink_escapes_exactly(symbol, table):
    symbols, indexes = int32([[1, symbol, 0, -1]]), int32([[table] * 4])
    streams = encode(symbols, indexes, TABLES)
    assert torch.equal(decode(streams, indexes, TABLES), symbols)


def test_an_empty_row_costs_only_the_coders_state():
    symbols, indexes = int32([[0, 0], [3, -2]]), int32([[-1, -1], [5, 5]])
    empty, full = encode(symbols, indexes, TABLES)
    assert len(empty) == 4 < len(full)
    assert torch.equal(decode([empty, full], indexes, TABLES), symbols)
    none = torch.zeros(2, 0, dtype=torch.int32)
    assert decode(encode(none, none, TABLES), none, TABLES).shape == (2, 0)


def test_long_streams_come_within_one_per_cent_of_the_ideal():
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(0, 64, (2, 40_000), generator=generator, dtype=torch.int32)
    noise = torch.randn(indexes.shape, generator=generator).clamp(-4, 4)
    symbols = (noise * table_scales()[indexes.long()]).round().to(torch.int32)
    streams = encode(symbols, indexes, TABLES)
    ideal = entropy_of(symbols, indexes, TABLES)
    bits = 8 * sum(map(len, streams))
    assert 0.999 * ideal < bits < 1.01 * ideal
    # and the tables themselves are those of the continuous model
    model = GAUSSIAN.bits(symbols.double(), table_scales()[indexes.long()]).sum().item()
    assert bits == pytest.approx(model, rel=0.01)


def test_peaked_tables_stay_increasing_and_cost_little():
    mass = torch.tensor([1e-9, 1 - 2e-9, 1e-9], dtype=torch.float64)
    tables = quantise_tables([mass], [-1])
    assert (tables.cumulative[0].diff() >= 1).all()
    symbols = torch.zeros(1, 100_000, dtype=torch.int32)
    (stream,) = encode(symbols, torch.zeros_like(symbols), tables)
    assert len(stream) < 100


@given(
    st.lists(
        st.lists(st.floats(0, 1), min_size=1, max_size=300).filter(lambda row: sum(row) > 0),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=80, deadline=None)
def test_every_table_rises_strictly_to_two_to_the_sixteen(rows):
    vectors = [torch.tensor(row, dtype=torch.float64) for row in rows]
    tables = quantise_tables([v / max(1.0, v.sum().item()) for v in vectors], [0] * len(rows))
    for cumulative, size, row in zip(tables.cumulative, tables.sizes, rows, strict=True):
        assert size == len(row) + 2, "one entry more than symbols and escape"
        assert cumulative[0] == 0
        assert cumulative[size - 1] == 1 << PRECISION
        assert (cumulative[:size].diff() >= 1).all()


def test_what_is_missing_to_one_goes_to_the_escape():
    tables = quantise_tables([torch.tensor([0.25, 0.25])], [0])
    frequencies = tables.cumulative[0].diff() / (1 << PRECISION)
    torch.testing.assert_close(frequencies, torch.tensor([0.25, 0.25, 0.5]), rtol=0, atol=1e-4)
    symbols = int32([[7] * 8000])
    (stream,) = encode(symbols, torch.zeros_like(symbols), tables)
    # one bit for each escape, and what the coder adds for the symbol itself
    assert 8000 / 8 < len(stream) < 8000 * 3


def test_a_stream_shorter_than_the_coders_state_is_refused():
    for stream in (b"", b"abc"):
        with pytest.raises(BitstreamError, match="damaged"):
            decode([stream], int32([[0]]), TABLES)


def garbage(number, generator):
    """Streams that begin as the coder's may, of noise, of the longest escapes, or of nothing."""
    size = int(generator.integers(4, 300))
    body = [generator.bytes(size), b"\xff" * size, b"\0" * size, b"\xff\0" * size][number % 4]
    state = int(generator.integers(1 << 23, 1 << 31))
    return state.to_bytes(4, "little") + body


def test_garbage_is_refused_without_reading_beyond_the_buffer():
    """The buffer's memory before the stream stays as it was given: zeros, and enough of them."""
    generator = np.random.default_rng(0)
    for number in range(2000):
        indexes = torch.from_numpy(generator.integers(0, 64, (2, 60), np.int32))
        decoder = Decoder([garbage(number, generator) for _ in range(2)])
        room = decoder._stream.storage_offset() * 4
        assert room > 16 * decoder._stream.numel() * 4 + 66 * indexes.shape[1]
        with contextlib.suppress(BitstreamError):
            decoder.pop(indexes, TABLES)
            decoder.finish()
            pytest.fail("noise passed for a stream")
        assert int(decoder._stream[:, 0].min()) > -room, "read beyond the zeros"


def test_garbage_is_refused_by_pieces():
    generator = np.random.default_rng(0)
    indexes = torch.randint(0, 64, (1, 4), dtype=torch.int32)
    for number in range(100):
        decoder = Decoder([garbage(number, generator)])
        with pytest.raises(BitstreamError, match="ends before its symbols"):
            for _ in range(1200):
                decoder.pop(indexes, TABLES)


def test_a_state_that_the_coder_never_has_is_refused():
    for state in (0, (1 << 23) - 1, 1 << 31, (1 << 32) - 1):
        with pytest.raises(BitstreamError, match="does not start"):
            decode([state.to_bytes(4, "little") + bytes(40)], int32([[0]]), TABLES)


@given(cases(), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_more_or_less_than_the_stream_is_refused(case, size):
    symbols, indexes, tables = case
    for row, stream in enumerate(encode(symbols, indexes, tables)):
        if len(stream) > 4:
            with pytest.raises(BitstreamError):
                decode([stream[: max(4, len(stream) - size)]], indexes[row : row + 1], tables)
        with pytest.raises(BitstreamError):
            decode([stream[:4] + bytes(size) + stream[4:]], indexes[row : row + 1], tables)


def test_long_rows_are_decoded_in_pieces(monkeypatch):
    monkeypatch.setattr(entropy, "_MOST_POPPED", 7)
    symbols = torch.arange(-30, 30, dtype=torch.int32).view(2, 30)
    indexes = torch.full_like(symbols, 20)
    streams = encode(symbols, indexes, TABLES)
    assert torch.equal(decode(streams, indexes, TABLES), symbols)


def test_tables_that_the_coder_could_not_be_trusted_with():
    good = quantise_tables([torch.tensor([0.2, 0.8])] * 2, [0, -1])
    check_tables(good)
    cumulative, sizes, lowest = good.cumulative, good.sizes, good.lowest
    flat = cumulative.clone()
    flat[1, 1] = 0
    for bad in (
        Tables(cumulative.long(), sizes, lowest),
        Tables(cumulative[0], sizes, lowest),
        Tables(cumulative[:1], sizes, lowest),
        Tables(cumulative, sizes + 1, lowest),
        Tables(cumulative, sizes - 3, lowest),
        Tables(cumulative, sizes - 1, lowest),
        Tables(cumulative, sizes, lowest[:1]),
        Tables(cumulative, sizes, lowest - (1 << 30)),
        Tables(cumulative + 1, sizes, lowest),
        Tables(flat, sizes, lowest),
    ):
        with pytest.raises(ValueError, match="table"):
            check_tables(bad)


# If this fails, streams made before can no longer be decoded: the container's VERSION must grow.
GOLDEN_STREAM = "e7579a0af37043bbbf"


def test_a_golden_stream_has_not_changed():
    tables = Tables(int32([[0, 20000, 60000, 65535, 65536]]), int32([5]), int32([-1]))
    symbols = int32([[0, 0, 1, -1, 0, 900, -1, 0, 1, 0]])
    indexes = int32([[0, 0, 0, 0, 0, 0, -1, 0, 0, 0]])
    (stream,) = encode(symbols, indexes, tables)
    assert stream.hex() == GOLDEN_STREAM
    assert torch.equal(decode([stream], indexes, tables), torch.where(indexes < 0, 0, symbols))


def test_the_clock_counts_the_coder():
    coder_clock.reset()
    symbols = torch.zeros(1, 1000, dtype=torch.int32)
    streams = encode(symbols, symbols, TABLES)
    encoding = coder_clock.seconds
    decode(streams, symbols, TABLES)
    assert 0 < encoding < coder_clock.seconds < 60
    coder_clock.reset()
    assert coder_clock.seconds == 0
