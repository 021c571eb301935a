import contextlib
import json
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic

from splitcodec.errors import InputError
from splitcodec.files import read_json, write_json
from splitcodec.inputs.tables import verify_table
from splitcodec.report.table import COLUMNS, NAMES, perplexity_increase, read_points

KLT = "smollm2-135m/split20/klt/lambda0.001-seed0"
SAID = "smollm2-135m split20 klt lambda0.001-seed0"


def test_points_hold_one_row_a_bitstream_in_order(built):
    points = read_points(built / "points.parquet")
    assert list(points.columns) == NAMES
    assert len(points) == 2 * (2 * 4 + 6 * 3)
    order = ["model", "split", "codec", "coder", "lambda", "seed"]
    assert points[order].equals(points[order].sort_values(order, ignore_index=True))


def test_a_row_joins_evaluation_latency_and_codec(built):
    points = read_points(built / "points.parquet")
    row = points[(points["codec"] == "klt") & (points["lambda"] == 0.001) & (points["split"] == 20)]
    (row,) = row.to_dict("records")
    assert row["bits_per_token_file"] == 509
    assert row["encode_ms_per_token"] == 0.021
    assert row["train_seconds"] == 9.8
    assert row["experiment"] == "default"
    assert row["git_commit"] == synthetic.GIT_COMMIT
    assert row["hardware"] == "AMD EPYC 9B14, 2 threads, 23 GiB"


def test_csv_and_parquet_read_as_the_same_table(built):
    tables = [read_points(built / f"points.{suffix}") for suffix in ("csv", "parquet")]
    pd.testing.assert_frame_equal(*tables)
    baseline = tables[0][tables[0]["codec"] == "int4"]
    assert (baseline["mode"] == "none").all()
    assert baseline["lambda"].isna().all()
    assert baseline["seed"].isna().all()


def test_parquet_says_what_each_column_means(built):
    schema = pq.read_schema(built / "points.parquet")
    meaning = json.loads(schema.metadata[b"splitcodec"])
    assert meaning["kind"] == "points"
    for column in COLUMNS:
        assert meaning["columns"][column.name]["meaning"] == column.meaning
        assert schema.field(column.name).metadata[b"unit"].decode() == column.unit


def test_text_of_digits_stays_text(results):
    for suffix in ("csv", "parquet"):
        synthetic.collect_points(results)
        table = read_points(results / f"points.{suffix}").assign(git_commit="0012345")
        table.to_csv(results / "points.csv", index=False)
        assert (read_points(results / "points.csv")["git_commit"] == "0012345").all()


def test_perplexity_increase_is_relative_to_uncoded():
    points = pd.DataFrame({"cross_entropy": [3.0, 3.1], "cross_entropy_uncoded": [3.0, 3.0]})
    assert perplexity_increase(points).tolist() == pytest.approx([0.0, 10.517], abs=1e-3)


def without_time(results):
    path = results / "latency/smollm2-135m/split20.json"
    document = read_json(path)
    keep = [p for p in document["points"] if p["variant"] != "lambda0.001-seed0"]
    write_json(path, document | {"points": keep})


def without_field(results):
    path = results / f"evaluation/{KLT}.json"
    document = read_json(path)
    del document["points"][0]["kl_low"]
    write_json(path, document)


def with_text_for_a_number(results):
    path = results / f"evaluation/{KLT}.json"
    document = read_json(path)
    document["points"][0]["kl"] = "much"
    write_json(path, document)


def with_a_gap(results):
    path = results / f"evaluation/{KLT}.json"
    document = read_json(path)
    document["points"][0]["kl"] = None
    write_json(path, document)


def with_new_codec(results):
    path = results / f"codecs/{KLT}/codec.json"
    write_json(path, read_json(path) | {"hash": "other"})


SPOILT = {
    "no evaluation": (lambda r: (r / f"evaluation/{KLT}.json").unlink(), SAID),
    "no codec": (lambda r: (r / f"codecs/{KLT}/codec.json").unlink(), SAID),
    "no time": (without_time, f"{SAID.replace('klt', 'hyperprior')} ans"),
    "no field": (without_field, "kl_low"),
    "wrong type": (with_text_for_a_number, "much"),
    "gap": (with_a_gap, "gaps in kl"),
    "another codec": (with_new_codec, "another codec"),
    "no points": (lambda r: write_json(r / f"evaluation/{KLT}.json", {"points": []}), KLT),
    "truncated": (lambda r: (r / f"evaluation/{KLT}.json").write_text('{"points": ['), KLT),
}


@pytest.mark.parametrize("spoil, said", SPOILT.values(), ids=SPOILT.keys())
def test_a_point_that_misses_a_part_is_named_and_nothing_is_written(results, spoil, said):
    before = (results / "points.csv").read_bytes(), (results / "points.parquet").read_bytes()
    spoil(results)
    with pytest.raises(InputError) as error:
        synthetic.collect_points(results)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert before == (
        (results / "points.csv").read_bytes(),
        (results / "points.parquet").read_bytes(),
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


AGAIN = "collect the points again|delete it and rerun the step"
DAMAGED = {
    "missing": (lambda p: p.unlink(), "does not exist"),
    "truncated": (cut, AGAIN),
    "empty": (lambda p: p.write_bytes(b""), "damaged"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 8), AGAIN),
    "foreign": (lambda p: p.write_text("a,b\n1,2\n"), AGAIN),
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("damage, said", DAMAGED.values(), ids=DAMAGED.keys())
def test_unreadable_points_give_one_clear_line(results, suffix, damage, said):
    path = results / f"points.{suffix}"
    damage(path)
    with pytest.raises(InputError) as error:
        read_points(path)
    assert re.search(said, str(error.value))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["bits_per_token_file", "hardware"])
def test_a_missing_column_is_named(results, column):
    path = results / "points.csv"
    read_points(path).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(InputError, match=column):
        read_points(path)


def test_a_parquet_file_of_others_is_no_table_of_points(results):
    path = results / "points.parquet"
    read_points(path).to_parquet(path)
    with pytest.raises(InputError, match="it was not written by this version"):
        read_points(path)


def test_a_changed_bit_of_the_table_is_noticed(results):
    path = results / "points.parquet"
    whole, expected = path.read_bytes(), read_points(path)
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 200):
        data = bytearray(whole)
        data[place // 8] ^= 1 << (place % 8)
        path.write_bytes(data)
        with contextlib.suppress(InputError):  # what lies between two pages is never read
            pd.testing.assert_frame_equal(read_points(path), expected)
    path.write_bytes(whole)
    assert verify_table(path)["kind"] == "points"
