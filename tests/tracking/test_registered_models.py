import shutil

import mlflow
import numpy as np
import pytest
import synthetic

from splitcodec.codecs.base import save_codec
from splitcodec.codecs.registry import build_codec
from splitcodec.report.table import read_points
from splitcodec.tracking.experiment import sync
from splitcodec.tracking.registry import write_model
from splitcodec.tracking.versions import WantedVersion, wanted_versions

MODEL = "default-smollm2-135m-split20"


def versions(world, model=MODEL):
    """Versions of a registered model by the point they are."""
    found = world.client.search_model_versions(f"name = '{model}'")
    assert len({version.tags["splitcodec.key"] for version in found}) == len(found)
    return {version.tags["splitcodec.key"].split("/")[-1]: version for version in found}


def numbers(world):
    return {name: version.version for name, version in versions(world).items()}


def test_a_version_is_a_pareto_best_point_with_card_and_signature(world):
    found = versions(world)
    learned = {f"hyperprior λ={value} seed=0" for value in ("0.003", "0.001", "0.0003", "0.0001")}
    assert found.keys() == learned | {"int8 + zstd"}
    version = found["hyperprior λ=0.001 seed=0"]
    assert version.description.startswith("# hyperprior, λ = 0.001 nats a bit")
    assert (
        version.tags["codec_hash"]
        == world.runs()["split20/hyperprior λ=0.001"].data.tags["codec_hash"]
    )
    held = {item.path for item in world.client.list_artifacts(version.run_id, "model")}
    assert held == {"model/MLmodel", "model/README.md", "model/codec"}
    signature = mlflow.models.Model.load(f"{version.source}/MLmodel").signature
    assert signature.inputs.inputs[0].shape == (-1, 576)


def test_aliases_name_versions(world):
    named = world.client.get_model_version_by_alias(MODEL, "best-at-5-percent")
    assert named.tags["splitcodec.key"].endswith("hyperprior λ=0.0003 seed=0")


def test_again_makes_no_version(world):
    world.track()  # the copy lies elsewhere than what it was copied from
    before = numbers(world)
    world.track()
    assert numbers(world) == before


def test_a_changed_point_has_a_new_version(world):
    world.track()
    before = numbers(world)
    world.change(bits_per_token_file=433.0)
    world.track()
    changed = {name for name, number in numbers(world).items() if before[name] != number}
    assert changed == {"hyperprior λ=0.001 seed=0"}


def test_aliases_move_and_vanish_with_their_points_and_those_of_others_stay(world):
    world.client.set_registered_model_alias(MODEL, "mine", numbers(world)["int8 + zstd"])
    for value in ("0.0001", "0.0003"):
        world.change(f"lambda{value}-seed0", cross_entropy=9.0, perplexity=8103.0)
    world.track()
    assert world.client.get_registered_model(MODEL).aliases.keys() == {
        "mine",
        *(f"best-at-{percent}-percent" for percent in (1, 2, 5, 10)),
    }
    for percent, point in ((2, "int8 + zstd"), (5, "int4 + zstd")):
        named = world.client.get_model_version_by_alias(MODEL, f"best-at-{percent}-percent")
        assert named.tags["splitcodec.key"].endswith(point)
    path = world.results / "evaluation/smollm2-135m/split20/int8/fixed.json"
    path.unlink()
    shutil.rmtree(world.results / "codecs/smollm2-135m/split20/int8")
    synthetic.collect_points(world.results)
    world.track()
    aliases = world.client.get_registered_model(MODEL).aliases.keys()
    assert aliases == {"best-at-5-percent", "best-at-10-percent"}  # of int4


def test_a_point_that_is_gone_has_no_version(world):
    for kind in ("evaluation", "codecs"):
        place = world.results / kind / "smollm2-135m/split20/hyperprior/lambda0.001-seed0"
        shutil.rmtree(place) if place.is_dir() else place.with_name(f"{place.name}.json").unlink()
    synthetic.collect_points(world.results)
    world.track()
    assert "hyperprior λ=0.001 seed=0" not in versions(world)


def test_a_split_that_is_gone_has_no_model(world):
    synthetic.build(world.results, splits=(10,), learned=("klt",), baselines=())
    synthetic.collect_points(world.results)
    world.track()
    other = "default-smollm2-135m-split10"
    assert len(versions(world, other)) == 4
    for kind in ("evaluation", "codecs", "latency"):
        for place in world.results.glob(f"{kind}/*/split10*"):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    synthetic.collect_points(world.results)
    world.track()
    assert versions(world, other) == {}
    names = {model.name for model in world.client.search_registered_models()}
    assert other not in names


def test_a_deleted_model_is_made_again(world):
    before = numbers(world).keys()
    world.client.delete_registered_model(MODEL)
    world.track()
    assert numbers(world).keys() == before


def test_another_directory_keeps_its_versions(world):
    world.track()
    other = world.directory / "other/default"
    shutil.copytree(world.results, other)
    (other / "mlflow-runs.json").unlink()
    before = {v.version for v in world.client.search_model_versions(f"name = '{MODEL}'")}
    sync(other, world.uri)
    after = {v.version for v in world.client.search_model_versions(f"name = '{MODEL}'")}
    assert before < after
    assert len(after) == 2 * len(before)


@pytest.mark.parametrize("coder", ["raw", "zstd"])
def test_what_is_registered_can_be_loaded_and_codes(world, tmp_path, coder):
    points = read_points(world.results / "points.parquet")
    version = wanted_versions("default", points, sorted(world.results.glob("codecs/*/*/*/*")))[-1]
    save_codec(build_codec("int8", 32, {}), tmp_path / "int8", version.codec | {"channels": 32})
    row = version.row | {"coder": coder}
    (tmp_path / "model").mkdir()
    write_model(WantedVersion(MODEL, version.key, row, tmp_path / "int8"), tmp_path / "model")
    codec = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    representation = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    decoded = codec.predict(representation)
    assert decoded.shape == representation.shape
    assert 0 < np.abs(decoded - representation).max() < 0.05
