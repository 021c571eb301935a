import pyarrow as pa
import pytest

from splitcodec.inputs.tables import RowGroups, open_table, table_writer, with_meaning


@pytest.fixture
def table(tmp_path):
    """A file with row groups of 3, 1, 0 and 4 rows, numbered."""
    schema = with_meaning(pa.schema([("number", pa.int32())]), "test", {})
    path, first = tmp_path / "t.parquet", 0
    with table_writer(path, schema) as writer:
        for size in (3, 1, 0, 4):
            numbers = list(range(first, first + size))
            writer.write_table(pa.table({"number": numbers}, schema=schema))
            first += size
    return path, open_table(path, "test")[0]


def test_rows_are_found_in_groups_of_any_size(table):
    rows = RowGroups(*table, ["number"], 2, lambda group: group["number"].to_pylist())
    assert len(rows) == 8
    found = [rows.find(row) for row in range(8)]
    assert [group[place] for group, place in found] == [*range(8)]


def test_a_group_is_read_once_while_it_is_held(table):
    read = []
    rows = RowGroups(*table, ["number"], 1, lambda group: read.append(len(group)))
    for row in range(8):
        rows.find(row)
    assert read == [3, 1, 4]
