import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from small_world import one_line, write_store
from splitcodec.activations.store import Activations
from splitcodec.errors import InputError

LENGTHS = (5, 1, 9, 3)
CHANNELS = 6


def values(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [100 * torch.randn(n, CHANNELS, generator=generator) for n in LENGTHS]
    return [row.to(dtype) for row in rows]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_comes_back_bit_for_bit(tmp_path, dtype):
    rows = values(dtype)
    store = write_store(tmp_path / "a.parquet", rows, dtype)
    assert store.lengths == list(LENGTHS)
    assert (len(store), store.tokens, store.channels) == (4, sum(LENGTHS), CHANNELS)
    for number, row in enumerate(rows):
        batch = store.read([number])
        assert batch.representation.dtype == torch.float32
        assert torch.equal(batch.representation[0], row.float())


def test_sequences_come_in_any_order_padded_with_zeros(tmp_path):
    rows = values(torch.float32)
    batch = write_store(tmp_path / "a.parquet", rows).read([3, 0, 3])
    assert batch.lengths.tolist() == [3, 5, 3]
    assert batch.documents == ["document3", "document0", "document3"]
    assert batch.tokens.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert batch.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5, [True] * 3 + [False] * 2]
    for found, row in zip(batch.representation, [rows[3], rows[0], rows[3]], strict=True):
        assert torch.equal(found[: len(row)], row)
        assert not found[len(row) :].any()


def test_batches_cover_all_sequences_once(tmp_path):
    store = write_store(tmp_path / "a.parquet", values(torch.float32))
    assert [batch.lengths.tolist() for batch in store.batches(3)] == [[5, 1, 9], [3]]
    assert [batch.lengths.tolist() for batch in store.batches(2, [2, 1, 0])] == [[9, 1], [5]]


def test_a_sequence_of_many_pages(tmp_path):
    row = torch.randn(700, 1024, generator=torch.Generator().manual_seed(0))
    store = write_store(tmp_path / "a.parquet", [row[:10], row])
    assert torch.equal(store.read([1]).representation[0], row)


def test_a_stranger_can_open_it(tmp_path):
    rows = values(torch.float16)
    write_store(tmp_path / "a.parquet", rows, torch.float16, model="someone", split=7)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["document", "sequence", "position", "token", "representation"]
    assert table["sequence"].to_pylist() == [i for i, n in enumerate(LENGTHS) for _ in range(n)]
    assert table["position"].to_pylist() == [t for n in LENGTHS for t in range(n)]
    found = b"".join(table["representation"].to_pylist())
    assert found == torch.cat(rows).numpy().astype("<f2").tobytes()
    meaning = json.loads(table.schema.metadata[b"splitcodec"])
    expected = {"kind": "activations", "model": "someone", "split": 7, "dtype": "float16"}
    assert meaning.items() >= (expected | {"channels": CHANNELS}).items()
    assert Activations(tmp_path / "a.parquet").metadata == meaning


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_is_not_finite_in_the_stored_dtype_is_refused(tmp_path, value):
    row = torch.zeros(2, 3)
    row[1, 2] = value
    with pytest.raises(InputError, match=r"document0.*not finite.*float16.*float32") as caught:
        write_store(tmp_path / "a.parquet", [row], torch.float16)
    assert one_line(caught.value)


def test_missing_and_foreign_files_give_one_line(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Activations(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet at all\n" * 9)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    for name in ("text", "foreign"):
        with pytest.raises(InputError, match=name) as caught:
            Activations(tmp_path / f"{name}.parquet")
        assert one_line(caught.value)


def test_a_token_file_is_no_store(world):
    with pytest.raises(InputError, match="holds tokens, not activations"):
        Activations(world.tokens("train"))


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    write_store(path, values(torch.float32))
    data = path.read_bytes()
    for size in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(InputError) as caught:
            Activations(path)
        assert one_line(caught.value)


def test_every_flipped_bit_of_the_values_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    rows = values(torch.float32)
    write_store(path, rows)
    data = bytearray(path.read_bytes())
    start = data.index(rows[2].numpy().tobytes())
    for offset in range(0, rows[2].nbytes, 5):
        data[start + offset] ^= 1 << (offset % 8)
        path.write_bytes(data)
        with pytest.raises(InputError, match="damaged") as caught:
            Activations(path).read([2])
        assert one_line(caught.value)
        data[start + offset] ^= 1 << (offset % 8)


def test_flipped_bits_anywhere_raise_nothing_else_and_spare_the_values(tmp_path):
    path = tmp_path / "a.parquet"
    rows = values(torch.float32)
    write_store(path, rows)
    data = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(600):
        spoilt = bytearray(data)
        spoilt[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(spoilt)
        try:
            batch = Activations(path).read(range(4))
        except InputError:
            refused += 1
            continue
        for found, row in zip(batch.representation, rows, strict=True):
            assert torch.equal(found[: len(row)], row)
    assert refused > 200


def test_the_writer_takes_any_device_layout(tmp_path):
    row = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    store = write_store(tmp_path / "a.parquet", [row.T])
    assert torch.equal(store.read([0]).representation[0], row.T)
