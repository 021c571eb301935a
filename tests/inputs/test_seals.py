import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from small_world import one_line
from splitcodec.errors import InputError
from splitcodec.inputs.tables import (
    open_table,
    read_columns,
    table_writer,
    verify_table,
    with_meaning,
)

SCHEMA = with_meaning(pa.schema([("a", pa.int32()), ("b", pa.string())]), "test", {"x": 1})


@pytest.fixture
def path(tmp_path):
    with table_writer(tmp_path / "a.parquet", SCHEMA) as writer:
        for start in (0, 5):
            rows = range(start, start + 5)
            writer.write_table(pa.table({"a": rows, "b": map(str, rows)}, schema=SCHEMA))
    return tmp_path / "a.parquet"


def test_any_reader_of_parquet_reads_a_sealed_file(path):
    assert pq.read_table(path).to_pydict() == {"a": [*range(10)], "b": [*map(str, range(10))]}
    file, meaning = open_table(path, "test")
    assert meaning["x"] == 1
    assert read_columns(path, file, ["b"], 1)["b"].to_pylist() == [*map(str, range(5, 10))]


def test_every_changed_byte_and_every_truncation_is_noticed(path):
    data = path.read_bytes()
    spoilt = [data[:size] for size in range(len(data))]
    spoilt += [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(4, len(data))]
    for wrong in spoilt:
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=r"a\.parquet") as caught:
            verify_table(path)
        assert one_line(caught.value)


def test_a_file_without_a_seal_says_so(path):
    pq.write_table(pa.table({"a": [1], "b": ["x"]}, schema=SCHEMA), path)
    with pytest.raises(InputError, match="has no seal"):
        open_table(path, "test")


def test_only_the_columns_that_are_read_are_checked(path):
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(1).column(1)
    data[chunk.dictionary_page_offset + chunk.total_compressed_size - 2] ^= 1
    path.write_bytes(data)
    file, _ = open_table(path, "test")
    assert read_columns(path, file, ["a"])["a"].to_pylist() == [*range(10)]
    assert read_columns(path, file, ["b"], 0)["b"].to_pylist() == [*map(str, range(5))]
    with pytest.raises(InputError, match="column b does not match"):
        read_columns(path, file, ["b"])
