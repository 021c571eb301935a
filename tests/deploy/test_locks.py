"""The lock has what the project asks for, and every way to install it takes the lock."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-cuda.lock")
ALL_LOCKS = (*LOCKS, "requirements-cpu.lock")
PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)


def pins(*names):
    found = [pin for name in names for pin in PIN.findall((ROOT / name).read_text())]
    return {canonicalize_name(name): version for name, version in found}


def test_the_lock_has_the_pins_and_only_them():
    assert pins("requirements.lock") == pins("requirements.txt", "requirements-nodeps.txt")
    assert not pins("requirements.lock").keys() & pins("requirements-cuda.lock").keys()


@pytest.mark.parametrize("name", ALL_LOCKS)
def test_every_package_of_a_lock_has_a_hash(name):
    blocks = re.split(r"\n(?=\w)", (ROOT / name).read_text())
    blocks = [block for block in blocks if PIN.match(block)]
    assert blocks
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block


def test_the_build_for_processors_is_that_of_the_lock():
    assert PIN.findall((ROOT / "requirements-cpu.lock").read_text()) == [
        ("torch", f"{pins('requirements.lock')['torch']}+cpu")
    ]
    assert "--requirement requirements-cpu.lock" in (ROOT / "Makefile").read_text()


def test_the_lock_is_within_the_ranges_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = pins("requirements.lock")
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_what_is_installed_is_what_is_locked():
    for name, wanted in pins("requirements.lock").items():
        try:
            assert version(name).split("+")[0] == wanted
        except PackageNotFoundError:
            pytest.fail(f"{name} is locked but not installed; run make setup")


@pytest.mark.parametrize(
    "recipe", ["Makefile", "deploy/Dockerfile", "deploy/splitcodec.def", "environment.yml"]
)
def test_every_recipe_installs_the_locks_with_hashes(recipe):
    text = (ROOT / recipe).read_text()
    for name in LOCKS:
        options = r"--no-deps --require-hashes (--requirement|-r) "
        assert re.search(options + re.escape(name), text), f"{recipe} does not install {name}"
    assert "requirements.txt" not in text.replace("made from requirements.txt", "")
