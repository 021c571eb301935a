import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcodec.activations.extraction import extract
from splitcodec.activations.store import Activations
from splitcodec.errors import InputError, SettingsError, SplitcodecError
from splitcodec.inputs.shards import Shard, join
from splitcodec.inputs.tables import table_writer, verify_table, with_meaning
from splitcodec.inputs.text import fetch_text
from splitcodec.inputs.tokens import read_tokens, tokenise
from splitcodec.settings import FilesSource, Partition


@given(st.integers(0, 300), st.integers(1, 40))
def test_shards_are_consecutive_and_even(total, count):
    parts = [range(total)[Shard(i + 1, count).share(total)] for i in range(count)]
    assert [item for part in parts for item in part] == [*range(total)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "-1/2", "1/0", "1/2/3", "a/b"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(SettingsError, match=r"is no part of a whole, such as 3/8"):
        Shard.parse(text)


def shards_of_store(world, folder, count, sequences=None):
    paths = [folder / f"{number}.parquet" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        how = (torch.float16, 2, sequences, Shard(number, count))
        extract(world.model, world.tokens("train"), {2: path}, *how)
    return paths


@pytest.mark.parametrize(("count", "sequences"), [(1, None), (3, None), (3, 5), (9, 5)])
def test_shards_of_a_store_join_to_the_bytes_of_one_job(world, tmp_path, count, sequences):
    shards = shards_of_store(world, tmp_path, count, sequences)
    join(shards[::-1], tmp_path / "joined.parquet")
    extract(world.model, world.tokens("train"), {2: tmp_path / "one"}, torch.float16, 2, sequences)
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / "one").read_bytes()
    assert len(Activations(tmp_path / "joined.parquet")) == sequences or sequences is None


def shards_of_tokens(world, folder, count, sequences):
    for number in range(30):
        (folder / f"{number:02d}.txt").write_text(chr(97 + number % 26) * (20 + 60 * (number % 7)))
    documents = folder / "documents.parquet"
    fetch_text(FilesSource(kind="files", path=f"{folder}/*.txt"), None, documents)
    rule = Partition(documents=["*"], sequences=sequences)
    paths = [folder / f"{number}.parquet" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        how = (21, True, path, Shard(number, count))
        tokenise(documents, world.model_directory, "train", rule, {}, *how)
    return paths


def test_shards_of_tokens_join_in_the_documents_order(world, tmp_path):
    shards = shards_of_tokens(world, tmp_path, 4, 40)
    out = tmp_path / "joined.parquet"
    join(shards, out)
    whole, parts = read_tokens(out), [read_tokens(path) for path in shards]
    assert [len(part) for part in parts] == [10] * 4
    assert list(whole.documents) == sorted(whole.documents)
    found = [sequence for part in parts for sequence in part.sequences]
    assert all(map(np.array_equal, whole.sequences, found))
    assert pq.read_table(out)["sequence"].to_pylist() == [*range(40)]
    assert "shard" not in verify_table(out)


def test_more_shards_than_documents_are_refused(world, tmp_path):
    with pytest.raises(SettingsError, match=r"shard 1/40 of partition train .* fewer shards"):
        shards_of_tokens(world, tmp_path, 40, 40)


def test_only_all_shards_of_one_whole_are_joined(world, tmp_path):
    first, second, third = shards_of_store(world, tmp_path, 3)
    out = tmp_path / "joined.parquet"
    with pytest.raises(InputError, match="shard 2 is missing"):
        join([first, third], out)
    with pytest.raises(InputError, match="shard 3 is there twice"):
        join([first, second, third, Path(shutil.copyfile(third, tmp_path / "again"))], out)
    with pytest.raises(InputError, match="is no shard"):
        join([world.store(2, "train")], out)
    (tmp_path / "of-two").mkdir()
    others = shards_of_store(world, tmp_path / "of-two", 2)
    with pytest.raises(InputError, match="not shards of one whole"):
        join([first, others[1]], out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [(3, "is no shard"), ("2/999999999", "shard 1 is missing"), ("x", "is no part of a whole")],
)
def test_what_a_file_says_of_itself_is_not_trusted(tmp_path, said, complaint):
    path = tmp_path / "forged.parquet"
    schema = with_meaning(pa.schema([("sequence", pa.int32())]), "tokens", {"shard": said})
    with table_writer(path, schema) as writer:
        writer.write_table(pa.table({"sequence": [1]}, schema=schema))
    with pytest.raises(SplitcodecError, match=complaint):
        join([path], tmp_path / "joined.parquet")


def test_a_damaged_shard_is_named(world, tmp_path):
    shards = shards_of_store(world, tmp_path, 2)
    content = bytearray(shards[1].read_bytes())
    content[len(content) // 3] ^= 1
    shards[1].write_bytes(content)
    with pytest.raises(InputError, match=r"2\.parquet is damaged"):
        join(shards, tmp_path / "joined.parquet")
    assert not (tmp_path / "joined.parquet").exists()
