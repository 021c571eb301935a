import shutil
from dataclasses import replace

import pytest
import synthetic

from splitcodec.errors import InputError
from splitcodec.report.table import read_points
from splitcodec.tracking.versions import best_at, wanted_versions


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    results = synthetic.build(tmp_path_factory.mktemp("results"), splits=(20,))
    synthetic.collect_points(results)
    return results


@pytest.fixture
def versions(results):
    points = read_points(results / "points.parquet")
    return wanted_versions("default", points, sorted(results.glob("codecs/*/*/*/*")))


def test_the_points_that_no_other_beats(versions):
    codecs = [version.row["codec"] for version in versions]
    assert codecs == ["hyperprior"] * 4 + ["int8", "int6", "fp16"]
    lambdas = [version.row["lambda"] for version in versions[:4]]
    assert lambdas == [0.003, 0.001, 0.0003, 0.0001]
    assert {version.row["coder"] for version in versions[4:]} == {"zstd"}
    assert {version.model for version in versions} == {"default-smollm2-135m-split20"}


def test_aliases_name_the_cheapest_that_loses_no_more(versions):
    named = {alias: version.row for version in versions for alias in version.aliases}
    assert named["best-at-2-percent"]["lambda"] == 0.0001
    assert named["best-at-5-percent"]["lambda"] == 0.0003
    assert named["best-at-1-percent"]["codec"] == "int8"
    assert best_at([{"perplexity_increase_percent": 20.0}]) == {}


def test_the_card_says_what_the_table_says(versions):
    card = versions[1].card
    assert card.startswith("# hyperprior, λ = 0.001 nats a bit")
    assert "| **441** | **30.11** |" in card and card.count("\n| **") == 1
    assert "576 channels" in card
    assert versions[1].row["hardware"] in card
    assert "models:/default-smollm2-135m-split20/" in card


def test_a_codec_that_needs_the_model_is_loaded_into_it(versions):
    codec = versions[1].codec
    assert "pyfunc" in versions[1].card and versions[1].stands_alone
    codec["hyperparameters"]["tokens"] = True
    assert "with_codec(model, f" in versions[1].card and "pyfunc" not in versions[1].card


def test_a_codec_with_a_changed_model_is_loaded_with_it(versions, tmp_path):
    version = replace(versions[1], folder=tmp_path)
    shutil.copytree(versions[1].folder, tmp_path, dirs_exist_ok=True)
    assert version.stands_alone
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert not version.stands_alone and "with_codec(model, f" in version.card


def test_a_damaged_codec_is_named(results, tmp_path):
    points = read_points(results / "points.parquet")
    (tmp_path / "codec.json").write_text("{")
    with pytest.raises(InputError, match=r"codec\.json is not valid JSON"):
        wanted_versions("default", points, [tmp_path])
