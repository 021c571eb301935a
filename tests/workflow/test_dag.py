"""The real workflow on the tiny configuration, once; every test looks at what it left."""

import json
import re
import shutil

import pandas as pd
import pytest
import yaml

from splitcodec.inputs.tokens import read_tokens
from workflow_runs import ROOT, snakemake


@pytest.fixture(scope="module")
def checkout(tiny_experiment, tmp_path_factory):
    """A copy that tests may change."""
    return shutil.copytree(
        tiny_experiment, tmp_path_factory.mktemp("dag") / "checkout", symlinks=True
    )


@pytest.fixture(scope="module")
def points(checkout):
    return pd.read_csv(checkout / "results/tiny/points.csv")


def test_every_point_is_in_the_table(points):
    assert len(points) == 3 + 1 + 2 + 2 + 4 * 3
    modes = dict(zip(points["codec"], points["mode"], strict=True))
    expected = {"klt": "frozen", "end-to-end": "end-to-end", "back": "back", "int4": "none"}
    assert modes.items() >= expected.items()
    assert points["bits_per_token_file"].gt(0).all()
    assert points[["cross_entropy", "kl", "encode_ms_per_token"]].notna().all(axis=None)
    inside = points["cross_entropy"].between(
        points["cross_entropy_low"], points["cross_entropy_high"]
    )
    assert inside.all()


def test_half_precision_changes_nothing(points):
    raw = points.query("codec == 'fp16' and coder == 'raw'")
    assert (raw["kl"].abs() < 1e-6).all()
    assert (raw["top1_agreement"] == 1).all()
    assert raw["bits_per_token_payload"].tolist() == [16 * 32]


def test_rates_are_those_of_the_files(checkout, points):
    for row in points.rename(columns={"lambda": "weight"}).itertuples():
        weight = "" if pd.isna(row.weight) else f"lambda{row.weight:g}-"
        variant = "fixed" if pd.isna(row.seed) else f"{weight}seed0"
        file = checkout / (
            f"results/tiny/bitstreams/{row.model}/split{row.split}/{row.codec}/{variant}/"
            f"{row.coder}.rdc"
        )
        assert row.bits_per_token_file == pytest.approx(8 * file.stat().st_size / row.tokens)


def test_learned_codecs_cost_what_they_estimate_plus_their_framing(points):
    coded = points.query("coder == 'ans'")
    framing = 8 * (40 + 8) / 64
    gap = (coded["bits_per_token_payload"] - coded["bits_per_token_estimated"]).abs()
    assert (gap <= 0.01 * coded["bits_per_token_estimated"] + framing).all()


def test_smaller_lambda_means_more_bits_and_less_divergence(points):
    curve = points.query("codec == 'klt'").sort_values("lambda")
    assert curve["bits_per_token_file"].is_monotonic_decreasing
    assert curve["kl"].is_monotonic_increasing


def test_report_figures_and_runs_are_there(checkout, points):
    results = checkout / "results/tiny"
    assert "<svg" in (results / "report.html").read_text()
    for name in ("rd-random-llama-split1", "rate-by-split-random-llama", "time-random-llama"):
        assert (results / f"figures/{name}.svg").stat().st_size > 1000
        assert (results / f"figures/{name}.png").stat().st_size > 1000
    runs = json.loads((results / "mlflow-runs.json").read_text())["runs"]
    assert len(runs) == len(points) + 11, "one a point, and one a curve"


def test_a_second_run_has_nothing_to_do(checkout):
    again = snakemake(checkout, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.parametrize(
    ("lost", "rule"),
    [
        ("figures/time-random-llama.png", "figures"),
        ("bounds/random-llama/split1.json", "bounds"),
        ("points.parquet", "collect"),
        ("codecs/random-llama/split1/klt/lambda0.001-seed0/codec.safetensors", "train_codec"),
    ],
)
def test_a_lost_result_is_made_again_without_being_named(checkout, lost, rule):
    path = checkout / "results/tiny" / lost
    aside = path.rename(checkout / path.name)
    try:
        wanted = snakemake(checkout, "--dry-run")
    finally:
        aside.rename(path)
    assert re.search(rf"^{rule} +1$", wanted.stdout + wanted.stderr, re.MULTILINE)


def test_lost_artefacts_come_back_byte_for_byte(checkout):
    place = checkout / "results/tiny"
    codec = "random-llama/split1/hyperprior/lambda0.001-seed0"
    lost = [place / f"codecs/{codec}/codec.safetensors", place / f"bitstreams/{codec}/ans.rdc"]
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    done = snakemake(checkout, f"results/tiny/bitstreams/{codec}/ans.rdc")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.read_bytes() for path in lost] == before


def test_shards_give_the_bytes_of_one_job(checkout):
    place = checkout / "results/tiny"
    stores = [f"activations/random-llama/{where}/train.parquet" for where in ("split1", "final")]
    before = [(place / store).read_bytes() for store in stores]
    shutil.rmtree(place / "activations/random-llama")
    targets = [f"results/tiny/{store}" for store in stores]
    done = snakemake(checkout, *targets, "--config", "activations={shards: 3}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(place / store).read_bytes() for store in stores] == before
    logs = {path.stem for path in place.glob("logs/extract/random-llama/*.log")}
    assert logs >= {"train-shard1", "train-shard2", "train-shard3"}
    assert not [*place.glob("activations/*/shard*/*/*")]


def test_tokenising_is_shared_by_documents(checkout):
    target = "results/tiny/tokens/random-llama/train.parquet"
    (checkout / target).unlink()
    done = snakemake(checkout, target, "--config", "text={shards: 2}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "shard" not in read_tokens(checkout / target).metadata
    logs = checkout.glob("results/tiny/logs/tokenise/random-llama/*.log")
    assert {path.stem for path in logs} == {"shard1", "shard2", "join"}


def test_bad_parameters_are_all_named_before_anything_runs(tmp_path):
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    codecs = [{"name": "klt", "lambdas": [-1.0]}, {"name": "kltt", "lambdas": [1.0]}]
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump(params | {"codec": [], "seeds": [-1], "codecs": codecs}))
    done = snakemake(tmp_path, config=config)
    assert done.returncode != 0
    for said in (
        "codec: unknown key",
        "seeds.0",
        "codecs.0.lambdas.0",
        "codecs.1.codec: unknown codec 'kltt'",
    ):
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()
