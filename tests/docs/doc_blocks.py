"""The fenced blocks of the documentation, and how each is run in a copy of a small experiment."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from splitcodec import cli
from splitcodec.cluster import Cluster
from splitcodec.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SUBSTITUTES = {
    "results/default": "results/tiny",
    "params/default.yaml": "params/tiny.yaml",
    "smollm2-135m": "random-llama",
    "--split 20": "--split 1",
    "split20": "split1",
    "split10": "split1",
}
"""What the documentation names, and what stands for it here: the tiny experiment, run once."""

_BLOCK = re.compile(
    r"(?:^<!-- not run here: (?P<reason>[^\n]+?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# A command of the shell's own making: pipes, lists, redirections, substitutions.
_NEEDS_SHELL = re.compile(r"[|&;<>`]|\$\(")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, line, language and text; the reason if it is not run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            source[: match.start("language")].count("\n") + 1,
            match["language"],
            match["text"],
            match["reason"],
        )
        for match in _BLOCK.finditer(source)
    ]


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the current directory; `names` are shared by the Python of a page."""
    if block.language == "yaml":
        check_parameters(block.text)
        return
    text = block.text
    for named, here in SUBSTITUTES.items():
        text = text.replace(named, here)
    if block.language == "python":
        exec(compile(text, str(block), "exec"), names)
        return
    for command in commands(text):
        run_command(command)


def commands(text: str) -> list[str]:
    """The commands of a shell block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    bare = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in lines]
    return [line for line in bare if line]


def run_command(command: str) -> None:
    words = shlex.split(command)
    if words[:2] == ["source", ".venv/bin/activate"]:
        return  # the tests run in an activated environment
    if words[0] == "make":  # what the targets do has tests of its own
        _check([*words, "--dry-run", "--no-print-directory", "-C", str(ROOT)])
    elif words[0] == "splitcodec" and not _NEEDS_SHELL.search(command):
        verb(words)
    elif words[0] == "snakemake":
        _check(words)
    elif all(part.split()[0] == "splitcodec" for part in command.split("|")):
        _check(["bash", "-o", "pipefail", "-c", command])
    else:
        raise AssertionError(f"no way to run {command!r}; say how, or why it is not run")


def verb(words: list[str]) -> None:
    """A verb in this process, which has loaded torch already."""
    before = sys.argv
    sys.argv = words
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, f"{shlex.join(words)} failed"
    finally:
        sys.argv = before


def check_parameters(text: str) -> None:
    """YAML of an experiment, or part of one, or of a cluster's file, is as the schema wants it."""
    given = yaml.safe_load(text)
    for model, whole in (
        (Settings, "params/tiny.yaml"),
        (Cluster, "workflow/profiles/slurm/cluster.yaml"),
    ):
        if given.keys() <= model.model_fields.keys():
            rest = yaml.safe_load((ROOT / whole).read_text(encoding="utf-8"))
            model.model_validate(rest | given)
            return
    raise AssertionError(f"keys of nothing known: {', '.join(given)}")


def _check(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"


@contextlib.contextmanager
def inside(directory: Path):
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
