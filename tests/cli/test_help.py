import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from splitcodec.cli import app

ROOT = Path(__file__).parents[2]
VERBS = [
    command.name or command.callback.__name__.replace("_", "-")
    for command in app.registered_commands
]


def test_the_program_lists_its_verbs(run):
    done = run("--help")
    assert done.code == 0
    for verb in VERBS:
        assert verb in done.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(run, verb):
    done = run(verb, "--help")
    assert done.code == 0
    assert f"splitcodec {verb}" in done.out
    assert len(done.out.split()) > 15
    assert run(verb, "-h").out == done.out


def test_a_verb_that_does_not_exist(run):
    done = run("encoed")
    assert done.code != 0
    assert "encoed" in done.error
    assert "Traceback" not in done.error


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"schema"}))
def test_a_verb_without_its_options(run, verb):
    done = run(verb)
    assert done.code == 2
    assert "Missing" in done.error
    assert "Traceback" not in done.error


def test_the_installed_script_answers_fast_and_without_torch():
    script = shutil.which("splitcodec", path=f"{ROOT}/.venv/bin") or shutil.which("splitcodec")
    if script is None:
        pytest.skip("the package is not installed")
    done = subprocess.run([script, "train", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "--lambda" in done.stdout


def test_the_schema_in_the_repository_is_that_of_the_program(run):
    """After a change of settings: splitcodec schema > workflow/schemas/params.schema.json"""
    printed = run("schema").out
    assert (ROOT / "workflow/schemas/params.schema.json").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_schema_accepts_the_params_files(run, path):
    schema = json.loads(run("schema").out)
    params = yaml.safe_load(path.read_text())
    jsonschema.validate(params, schema)
    params["experimnt"] = params.pop("experiment")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(params, schema)
