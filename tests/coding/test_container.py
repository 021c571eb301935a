import random
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from small_world import one_line
from splitcodec.coding.container import MAGIC, Container, read_container, write_container
from splitcodec.errors import BitstreamError, InputError

HEADER = {"codec": "klt", "codec_hash": "0123abcd", "coder": "ans", "split": 2, "name": "Åland"}
LENGTHS = [3, 1, 4]
PAYLOADS = [b"first payload", b"", bytes(range(40))]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.rdc"
    write_container(path, HEADER, LENGTHS, PAYLOADS)
    return path


def test_all_comes_back(path):
    container = read_container(path)
    assert container == Container(HEADER | {"sequences": 3, "tokens": 8}, LENGTHS, PAYLOADS)
    assert container.payload_bytes == 53
    assert list(path.parent.iterdir()) == [path]


@given(
    st.dictionaries(
        st.text(max_size=9), st.one_of(st.none(), st.integers(), st.text()), max_size=5
    ),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=6),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_header_and_payloads_come_back(tmp_path, header, chunks):
    path = tmp_path / "any.rdc"
    lengths, payloads = [n for n, _ in chunks], [payload for _, payload in chunks]
    write_container(path, header, lengths, payloads)
    container = read_container(path)
    assert container.header == header | {"sequences": len(chunks), "tokens": sum(lengths)}
    assert (container.lengths, container.payloads) == (lengths, payloads)


def test_the_overhead_is_twelve_bytes_a_sequence_and_the_header(path, tmp_path):
    write_container(tmp_path / "b.rdc", HEADER, [*LENGTHS, 0], [*PAYLOADS, b"1234567"])
    assert (tmp_path / "b.rdc").stat().st_size == path.stat().st_size + 12 + 7


# A container of version 1, byte for byte. If this fails, the format has changed: then VERSION must
# grow too, since files made before can no longer be read.
GOLDEN = (
    "8953504c430d0a1a0100400000007b22636f646563223a226b6c74222c22636f646572223a22616e"
    "73222c2273706c6974223a322c2273657175656e636573223a322c22746f6b656e73223a337da048"
    "d90d0200000002000000cdf6b58700ff01000000010000007fb1c27c7a"
)


def test_the_golden_container_has_not_changed(tmp_path):
    path = tmp_path / "golden.rdc"
    write_container(path, {"codec": "klt", "coder": "ans", "split": 2}, [2, 1], [b"\x00\xff", b"z"])
    assert path.read_bytes().hex() == GOLDEN
    container = read_container(path)
    assert container.payloads == [b"\x00\xff", b"z"]


def test_every_truncation_is_noticed(path):
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(BitstreamError, match=r"a\.rdc") as caught:
            read_container(path)
        assert one_line(caught.value)


def test_every_changed_byte_is_noticed(path, monkeypatch):
    data = path.read_bytes()
    generator = random.Random(0)
    spoilt = bytearray(data)
    monkeypatch.setattr(Path, "read_bytes", lambda _: bytes(spoilt))
    for position in [*range(len(data)), *(generator.randrange(len(data)) for _ in range(4000))]:
        spoilt[:] = data
        spoilt[position] ^= generator.randrange(1, 256)
        with pytest.raises(BitstreamError, match=r"a\.rdc") as caught:
            read_container(path)
        assert one_line(caught.value)


def test_anything_behind_the_end_is_noticed(path):
    data = path.read_bytes()
    for more in (b"\x00", b"\x00" * 12, data):
        path.write_bytes(data + more)
        with pytest.raises(BitstreamError, match="damaged"):
            read_container(path)


def test_chunks_in_another_order_or_missing_are_noticed(tmp_path):
    path = tmp_path / "a.rdc"
    write_container(path, HEADER, [3, 1], [b"one", b"four"])
    data = path.read_bytes()
    path.write_bytes(data[: -(12 + 4)])
    with pytest.raises(BitstreamError, match="number of sequences"):
        read_container(path)


def test_a_foreign_file_says_so(tmp_path):
    path = tmp_path / "a.rdc"
    for data in (b"", b"PAR1", b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"{}" * 400):
        path.write_bytes(data)
        with pytest.raises(BitstreamError, match="not a splitcodec container") as caught:
            read_container(path)
        assert one_line(caught.value)


def test_a_later_version_says_so(path):
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, len(MAGIC), 2)
    path.write_bytes(data)
    with pytest.raises(BitstreamError, match="version 2"):
        read_container(path)


def test_a_giant_header_length_takes_no_memory(path):
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, len(MAGIC) + 2, 0xFFFFFFF0)
    path.write_bytes(data)
    with pytest.raises(BitstreamError, match="header"):
        read_container(path)


def test_a_giant_chunk_length_takes_no_memory(tmp_path):
    path = tmp_path / "a.rdc"
    write_container(path, HEADER, [1], [b"abc"])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, len(data) - 3 - 8, 0xFFFFFFFF)
    path.write_bytes(data)
    with pytest.raises(BitstreamError, match="chunk 0"):
        read_container(path)


@pytest.mark.parametrize("text", [b"[]", b"7", b"\xff\xfe", b"{", b'{"codec": "klt"'])
def test_a_header_that_is_no_json_object_is_refused_though_its_checksum_fits(tmp_path, text):
    start = struct.pack("<8sHI", MAGIC, 1, len(text)) + text
    path = tmp_path / "a.rdc"
    path.write_bytes(start + struct.pack("<I", zlib.crc32(start)))
    with pytest.raises(BitstreamError) as caught:
        read_container(path)
    assert one_line(caught.value)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InputError, match=r"none\.rdc.*No such file"):
        read_container(tmp_path / "none.rdc")


def test_an_error_while_writing_spares_the_earlier_file(path):
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_container(path, HEADER, [1, 2], [b"only one"])
    with pytest.raises(ValueError):
        write_container(path, HEADER | {"rate": float("nan")}, [1], [b"x"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
