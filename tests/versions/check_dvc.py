"""DVC around the workflow: one clone makes everything and pushes, another pulls and adds a λ."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARAMS = "params/default.yaml"
CODECS = "results/default/codecs/random-llama/split1/klt"


def call(directory, *command):
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def experiment():
    """A few jobs of the tiny experiment, under the name of the default one."""
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text()) | {"experiment": "default"}
    params["codecs"] = [{"name": "klt", "lambdas": [1.0e-4]}]
    params["baselines"] = {"codecs": []}
    return params


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A repository in which everything was made, committed and pushed to a remote."""
    base = tmp_path_factory.mktemp("versions")
    repository = base / "first"
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard")
    for name in listed.splitlines():
        source, target = ROOT / name, repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.exists() or source.is_symlink():
            shutil.copy2(source, target, follow_symlinks=False)
    (repository / PARAMS).write_text(yaml.safe_dump(experiment()))
    (repository / "dvc.lock").unlink(missing_ok=True)
    call(repository, "git", "init", "--quiet", "--initial-branch=main")
    for name, value in {"user.name": "Test", "user.email": "test@example.org"}.items():
        call(repository, "git", "config", name, value)
    call(repository, "dvc", "remote", "add", "--default", "store", str(base / "remote"))
    call(repository, "dvc", "config", "core.analytics", "false")
    call(repository, "dvc", "repro")
    call(repository, "git", "add", "--all")
    call(repository, "git", "commit", "--quiet", "--message", "everything")
    call(repository, "dvc", "push")
    return repository


@pytest.fixture(scope="module")
def second(first):
    """A fresh clone that pulled."""
    clone = first.with_name("second")
    call(first.parent, "git", "clone", "--quiet", str(first), str(clone))
    call(clone, "make", "pull", "BIN=" + str(Path(shutil.which("dvc")).parent), "INSTALLED=")
    return clone


def test_a_second_repro_has_nothing_to_do(first):
    assert "up to date" in call(first, "dvc", "repro")


def test_what_was_pulled_is_up_to_date_for_both(second):
    assert "Nothing to be done" in call(second, "snakemake", "--dry-run")
    assert "up to date" in call(second, "dvc", "repro")


def test_pulled_files_that_are_lost_are_restored_byte_for_byte(second):
    lost = second / CODECS / "lambda0.0001-seed0/codec.safetensors"
    before = lost.read_bytes()
    lost.unlink()
    call(second, "dvc", "checkout")
    assert lost.read_bytes() == before


def test_another_lambda_trains_that_lambda_alone(second):
    kept = second / CODECS / "lambda0.0001-seed0/codec.safetensors"
    before = kept.stat().st_mtime_ns
    call(second, "dvc", "exp", "run", "-S", f"{PARAMS}:codecs.0.lambdas=[0.0001,0.003]")
    assert kept.stat().st_mtime_ns == before
    assert (second / CODECS / "lambda0.003-seed0/codec.safetensors").exists()
    points = pd.read_csv(second / "results/default/points.csv")
    assert sorted(points["lambda"]) == [0.0001, 0.003]
    assert "codecs" in call(second, "dvc", "params", "diff")
    changed = call(second, "dvc", "metrics", "diff", "--all")
    assert "klt-ans-lambda0.003" in changed


def test_another_baseline_reaches_bitstreams_and_table(second):
    call(second, "dvc", "exp", "run", "-S", f"{PARAMS}:baselines.codecs=[int8]")
    points = pd.read_csv(second / "results/default/points.csv")
    assert "int8" in set(points["codec"])
    assert "up to date" in call(second, "dvc", "status")
