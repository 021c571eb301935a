import io
import json
import os
import random
import struct
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from small_world import one_line
from splitcodec.coding.container import (
    END,
    MAGIC,
    Container,
    ContainerWriter,
    Header,
    read_front_to_back,
    write_container,
)
from splitcodec.errors import BitstreamError, InputError

HEADER = Header(
    codec="klt",
    codec_hash="0123abcd",
    coder="ans",
    model="Åland",
    model_hash="h",
    split=2,
    channels=8,
    longest=4,
    partition="evaluation",
    data_hash="d",
)
LENGTHS = [3, 1, 4]
NAMED = r"^(standard input|.*a\.rdc) (is damaged|is not a splitcodec|has format version)"
PAYLOADS = [b"first payload", b"", bytes(range(40))]


def write(path, header=HEADER, lengths=LENGTHS, payloads=PAYLOADS):
    with write_container(path, header) as writer:
        for tokens, payload in zip(lengths, payloads, strict=True):
            writer.add(tokens, payload)


def read_all(path):
    """Header, lengths and payloads."""
    container = Container.open(path)
    return container.header, container.lengths, [container.read(i) for i in range(len(container))]


def read_piped(path):
    """The same, of what cannot be sought in."""
    with path.open("rb") as file:
        header, chunks = read_front_to_back(Unseekable(file.raw))
        chunks = list(chunks)
    return header, [tokens for tokens, _ in chunks], [payload for _, payload in chunks]


class Unseekable(io.RawIOBase):
    """Gives a few bytes at a time, as a socket may."""

    def __init__(self, file):
        self.file = file

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.file.read(min(7, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


def refused(path, match, readers=(read_all, read_piped)):
    for read in readers:
        with pytest.raises(BitstreamError, match=match) as caught:
            read(path)
        assert one_line(caught.value)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "a.rdc")
    return tmp_path / "a.rdc"


def test_all_comes_back(path):
    assert read_all(path) == read_piped(path) == (HEADER, LENGTHS, PAYLOADS)
    container = Container.open(path)
    assert (len(container), container.payload_bytes, container.sizes) == (3, 53, [13, 0, 40])
    assert container.read(2) == PAYLOADS[2], "one sequence is read alone"
    container.verify()
    assert list(path.parent.iterdir()) == [path]


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)


@given(
    st.builds(
        Header,
        **dict.fromkeys(("codec", "codec_hash", "model", "model_hash", "data_hash"), _TEXT)
        | dict(
            coder=_TEXT,
            partition=_TEXT,
            split=st.integers(0, 99),
            channels=st.integers(1, 999),
            longest=st.just(10**6),
        ),
    ),
    st.lists(st.tuples(st.integers(1, 10**6), st.binary(max_size=200)), max_size=6),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_header_and_payloads_come_back(tmp_path, header, chunks):
    path = tmp_path / "any.rdc"
    lengths, payloads = [n for n, _ in chunks], [payload for _, payload in chunks]
    write(path, header, lengths, payloads)
    assert read_all(path) == read_piped(path) == (header, lengths, payloads)


def test_the_overhead_is_twenty_bytes_a_sequence_and_under_half_a_kilobyte(path, tmp_path):
    size = path.stat().st_size
    assert size - 53 - 3 * 20 < 500
    write(tmp_path / "b.rdc", HEADER, [*LENGTHS, 1], [*PAYLOADS, b"1234567"])
    assert (tmp_path / "b.rdc").stat().st_size == size + 20 + 7


def test_every_truncation_is_noticed(path):
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        refused(
            path, r"^(standard input|.*a\.rdc) (is damaged|is not a splitcodec|has format version)"
        )


def test_every_changed_byte_is_noticed(path):
    data, generator = path.read_bytes(), random.Random(0)
    for position in range(len(data)):
        spoilt = bytearray(data)
        spoilt[position] ^= generator.randrange(1, 256)
        path.write_bytes(spoilt)
        refused(
            path, r"^(standard input|.*a\.rdc) (is damaged|is not a splitcodec|has format version)"
        )


def test_anything_behind_the_end_is_noticed(path):
    data = path.read_bytes()
    for more in (b"\x00", b"\x00" * 12, data[-24:], data):
        path.write_bytes(data + more)
        refused(path, "damaged", [read_all])
        assert read_piped(path)[1] == LENGTHS, "what follows in a pipe is another's"


def test_an_unfinished_file_says_so(path):
    file = io.BytesIO()
    writer = ContainerWriter(file, HEADER)
    writer.add(3, b"payload")
    path.write_bytes(file.getvalue())
    refused(path, "cut off, or never finished")


def test_chunks_of_another_place_or_file_are_noticed(path, tmp_path):
    """Checksums are bound to the number of a chunk and to the header."""
    write(path, HEADER, [3, 3], [b"1234", b"5678"])
    write(tmp_path / "b.rdc", HEADER.model_copy(update={"data_hash": "e"}), [3], [b"1234"])
    data, other = path.read_bytes(), (tmp_path / "b.rdc").read_bytes()
    first, second = data.index(b"1234") - 8, data.index(b"5678") - 8
    path.write_bytes(data[:first] + data[second : second + 16] + data[second:])
    refused(path, "chunk 0 does not match")
    foreign = other[other.index(b"1234") - 8 :][:16]
    path.write_bytes(data[:first] + foreign + data[second:])
    refused(path, "chunk 0 does not match")


def test_a_foreign_file_says_so(tmp_path):
    path = tmp_path / "a.rdc"
    for data in (b"", b"PAR1", b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"{}" * 400):
        path.write_bytes(data)
        refused(path, "not a splitcodec container")


def test_another_version_says_so(path):
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, len(MAGIC), 2)
    path.write_bytes(data)
    refused(path, "version 2")


def with_header(path, text):
    """Replace the header of the file at `path`, and all checksums that follow from it."""
    _, lengths, payloads = read_all(path)
    file = io.BytesIO()
    writer = ContainerWriter(file, SimpleNamespace(longest=4, model_dump_json=lambda: text))
    for tokens, payload in zip(lengths, payloads, strict=True):
        writer.add(tokens, payload)
    writer.finish()
    path.write_bytes(file.getvalue())


CHANGES = [
    {"channels": 0}, {"channels": -1}, {"channels": "8"}, {"channels": 8.5}, {"channels": 2**32},
    {"longest": 0}, {"longest": 3}, {"split": None}, {"codec": 7}, {"dtype": "float64"},
    {"codec": "x" * 1001}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["[]", "7", "{", "{}", "[" * 60_000, "NaN"]
    + [json.dumps(HEADER.model_dump() | change) for change in CHANGES],
    ids=lambda text: text[:20],
)
def test_a_header_that_cannot_be_is_refused_though_its_checksum_fits(path, text):
    with_header(path, text)
    refused(path, "damaged")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\x9b1m", "\0"])
def test_names_give_a_terminal_no_orders(path, name):
    whole = path.read_bytes()
    for change in ({"model": name}, {999 * name: 1}):
        path.write_bytes(whole)
        with_header(path, json.dumps(HEADER.model_dump() | change))
        refused(path, r"not valid \([ -~]{,300}\); encode")


def test_what_comes_alone_may_have_nothing_behind_it(path):
    data = path.read_bytes()
    for more, fits in ((b"", True), (b"\0", False), (data, False)):
        _, chunks = read_front_to_back(io.BytesIO(data + more), alone=True)
        if fits:
            assert len(list(chunks)) == 3
            continue
        with pytest.raises(BitstreamError, match="goes on after its end"):
            list(chunks)


def test_chunks_arrive_as_they_are_written():
    """A receiver must not wait for what the sender still holds."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with os.fdopen(theirs, "wb") as file, os.fdopen(ours, "rb", 0) as receiver:
        writer = ContainerWriter(file, HEADER)
        assert receiver.read(99_999).startswith(MAGIC)
        writer.add(2, b"payload")
        assert b"payload" in receiver.read(99_999)
        writer.finish()
        assert receiver.read(99_999).endswith(END)


def test_a_named_pipe_and_a_device_stay_what_they_are(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=60)
    write(tmp_path / "a.rdc")
    assert found == [(tmp_path / "a.rdc").read_bytes()]
    assert pipe.is_fifo()
    write(Path(os.devnull))
    assert Path(os.devnull).is_char_device()


def test_giant_sizes_take_no_memory(path):
    """Sizes are held against the file before anything of that size is made."""
    data = path.read_bytes()
    places = [len(MAGIC) + 2, data.index(PAYLOADS[0]) - 4, len(data) - 24]
    tracemalloc.start()
    for place in places:
        spoilt = bytearray(data)
        struct.pack_into("<I", spoilt, place, 0xFFFFFFF0)
        path.write_bytes(spoilt)
        refused(path, "damaged")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_sequences_larger_than_the_reader_allows_are_refused(path):
    assert len(Container.open(path, most_values=32)) == 3
    with pytest.raises(BitstreamError, match=r"4 tokens of 8 channels.*at most 31 values"):
        Container.open(path, most_values=31)
    with path.open("rb") as file, pytest.raises(BitstreamError, match="at most 31 values"):
        read_front_to_back(file, most_values=31)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InputError, match=r"none\.rdc.*No such file"):
        Container.open(tmp_path / "none.rdc")


def test_an_error_while_writing_spares_the_earlier_file(path):
    before = path.read_bytes()
    for lengths in ([1, 2], [0], [5]):
        with pytest.raises(ValueError):
            write(path, HEADER, lengths, [b"only one"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_writing_holds_no_payload(tmp_path):
    payload = bytes(1 << 16)
    tracemalloc.start()
    write(tmp_path / "a.rdc", HEADER, [1] * 200, [payload] * 200)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20, "of 13 MB"
    container = Container.open(tmp_path / "a.rdc")
    container.verify()
    with (tmp_path / "a.rdc").open("rb") as file:
        assert sum(len(payload) for _, payload in read_front_to_back(file)[1]) == 200 << 16
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
