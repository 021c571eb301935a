"""The benchmarks that read what a run leaves, on the tiny experiment: that they work, and what they
say of it. How long anything takes is not looked at."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from splitcodec.files import read_json, write_json
from workflow_runs import ROOT

MODEL = "data/models/random-llama"
TOKENS = "results/tiny/tokens/random-llama/evaluation.parquet"
KLT = "results/tiny/codecs/random-llama/split1/klt/lambda0.001-seed0"
CONTEXT = "results/tiny/codecs/random-llama/split1/context/lambda0.001-seed0"
STORE = "results/tiny/activations/random-llama/split1/evaluation.parquet"
QUICKLY = "--sequences", "2", "--repeats", "1", "--threads", "1"
RUN = "results/tiny", MODEL, "--split", "1"


def benchmark(name, *arguments, at):
    # Tables are as wide as the terminal, which a test has not.
    return subprocess.run(
        [sys.executable, str(ROOT / f"benchmarks/{name}.py"), *arguments],
        cwd=at,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )


MEASURED = {
    "frontier": (["results/tiny"], ["klt", "context", "int + zstd", "back"]),
    "leads": (RUN, ["closest multiple", "trellis: BD-rate"]),
    "levels": (RUN, ["levels, one codec for all: BD-rate"]),
    "learning": (
        [*RUN, "--codec", "hyperprior", "--rate", "0.001", "--steps", "2", "--tokens", "128"],
        ["before", "as it is", "denoiser alone"],
    ),
    "codec_speed": (
        ["--activations", STORE, "--codec", KLT, CONTEXT, "--model", MODEL, *QUICKLY],
        ["klt lambda0.001-seed0", "CompressAI", "int4 + zstd", "forward"],
    ),
    "containers": ([STORE, KLT, "--tokens", "1000"], ["inspect --verify", "MB of fp16"]),
    "extraction": ([MODEL, TOKENS, "--split", "1", "--repeats", "1"], ["extract", "plain"]),
}
"""What a benchmark is called with, and what it says then."""
OTHERS = {file.stem for file in (ROOT / "benchmarks").glob("*.py")} - MEASURED.keys()


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_it_says_what_it_measured(tiny_experiment, tmp_path, name):
    arguments, said = MEASURED[name]
    for part in ("results", "data"):
        (tmp_path / part).symlink_to(tiny_experiment / part)
    done = benchmark(name, *arguments, at=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [words for words in said if words not in done.stdout] == []


def test_models_at_the_same_split_are_told_apart(tiny_experiment, tmp_path):
    own = tiny_experiment / "results/tiny/evaluation/random-llama"
    shutil.copytree(own, tmp_path / "results/tiny/evaluation/random-llama")
    for path in own.rglob("*.json"):
        points = read_json(path)["points"]
        for point in points:
            point |= {"model": "dearer", "bits_per_token_file": 3 * point["bits_per_token_file"]}
        other = tmp_path / "results/tiny/evaluation/dearer" / path.relative_to(own)
        write_json(other, {"points": points})
    done = benchmark("frontier", "results/tiny", at=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if " klt " in line and "λ" not in line]
    bits = [float(re.search(r"0.0001: ([\d,]+)", row)[1].replace(",", "")) for row in rows[:2]]
    assert ["dearer" in row for row in rows] == [True, False, True, False]
    assert bits[0] == pytest.approx(3 * bits[1], rel=0.02)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_it_says_how_it_is_called(name, tmp_path):
    done = benchmark(name, "--help", at=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "usage" in done.stdout.lower()


def test_what_has_a_trellis_is_not_polished(tiny_experiment):
    done = benchmark("learning", *RUN, "--codec", "context", "--rate", "0.001", at=tiny_experiment)
    assert done.returncode == 2
    assert "a trellis has no gradient" in done.stderr


def test_interpolation_wants_more_points_than_a_tiny_run_has(tiny_experiment):
    done = benchmark("interpolation", "results/tiny/points.parquet", at=tiny_experiment)
    assert done.returncode == 2
    assert "no curve has four" in done.stderr
