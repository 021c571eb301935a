import pytest

from splitcodec.evaluation import latency
from splitcodec.evaluation.latency import measure_latency


@pytest.fixture(scope="module")
def measured(stores, codecs):
    names = ("fp16", "int2", "fine")
    return measure_latency(stores.split, [codecs[name] for name in names], sequences=2, repeats=2)


def test_every_codec_and_coder_is_timed(measured):
    found = [(row["codec"], row["variant"], row["coder"]) for row in measured["points"]]
    coders = ("raw", "deflate", "zstd")
    assert found == [
        *(("fp16", "fp16", coder) for coder in coders),
        *(("int2", "int2", coder) for coder in coders),
        ("klt", "fine", "ans"),
    ]


def test_times_are_positive_and_parts_make_the_whole(measured):
    for row in measured["points"]:
        assert row["encode_ms_per_token"] > 0
        assert row["decode_ms_per_token"] > 0
        assert row["coder_ms_per_token"] > 0
        both = row["encode_ms_per_token"] + row["decode_ms_per_token"]
        parts = row["network_ms_per_token"] + row["coder_ms_per_token"]
        assert parts == pytest.approx(both, rel=1e-6)


def test_the_median_of_all_runs_but_the_first(stores, codecs, monkeypatch):
    runs = iter([(9.0, 9.0, 9.0), (1.0, 4.0, 0.5), (3.0, 2.0, 1.5), (2.0, 6.0, 0.0)])
    monkeypatch.setattr(latency, "_run", lambda *_: next(runs))
    found = measure_latency(stores.split, [codecs["fine"]], sequences=2, repeats=3)
    (row,), tokens = found["points"], found["tokens"]
    assert row["encode_ms_per_token"] == pytest.approx(2000 / tokens)
    assert row["decode_ms_per_token"] == pytest.approx(4000 / tokens)
    assert row["coder_ms_per_token"] == pytest.approx(500 / tokens)
    assert row["network_ms_per_token"] == pytest.approx(5500 / tokens)


def test_it_says_what_was_timed_and_where(measured, stores):
    assert measured["tokens"] == sum(stores.split.lengths[:2])
    assert measured["split"] == 2
    assert measured["model"] == stores.split.metadata["model"]
    hardware = measured["hardware"]
    assert hardware.keys() == {"cpu", "cores", "threads", "memory_gib", "torch"}
    assert hardware["cores"] >= 1
    assert hardware["memory_gib"] >= 1


def test_more_sequences_than_there_are(stores, codecs):
    found = measure_latency(stores.split, [codecs["fp16"]], sequences=99, repeats=1)
    assert found["tokens"] == stores.split.tokens


@pytest.mark.parametrize(("longest", "runs"), [(0.0, 1), (60.0, 4)])
def test_a_slow_codec_is_measured_less_often_but_never_cold(
    stores, codecs, monkeypatch, longest, runs
):
    called = []
    original = latency._run
    monkeypatch.setattr(latency, "_LONGEST", longest)
    monkeypatch.setattr(latency, "_run", lambda *own: called.append(own) or original(*own))
    measure_latency(stores.split, [codecs["fine"]], sequences=2, repeats=3)
    assert len(called) == runs
