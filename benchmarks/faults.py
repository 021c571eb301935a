"""Hurt a run in every way, then run once more: `python benchmarks/faults.py --kills 50`.

Each fault happens to a run of a small experiment in a directory of its own; afterwards one more run
must give the artefacts of an undisturbed one, byte for byte, timing aside. Prints one row a kind of
fault: how often it happened, in which phases, whether the results are equal, and what was said.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
_PLACE = re.compile(r"results/[^\s:,;)]*")
sys.path.insert(0, str(ROOT / "tests"))

from artefacts import artefacts  # noqa: E402


@dataclass
class Outcome:
    """What came of one kind of fault."""

    fault: str
    times: int = 0
    where: Counter[str] = field(default_factory=Counter)
    equal: bool = True
    said: str = ""


class Workplace:
    """A directory in which the experiment can be run."""

    def __init__(self, directory: Path, params: dict) -> None:
        self.directory = directory
        self.results = directory / "results" / params["experiment"]
        (directory / "data").mkdir(parents=True)
        (directory / "data/tiny").symlink_to(ROOT / "data/tiny")
        (directory / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self) -> subprocess.Popen:
        """Snakemake in a session of its own, with which it can be killed."""
        command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        command += ["--configfile", "params.yaml", "--rerun-incomplete", "--keep-going"]
        log = (self.directory / "run.log").open("a")
        return subprocess.Popen(
            command, cwd=self.directory, stdout=log, stderr=log, start_new_session=True
        )

    def run(self) -> int:
        """Run to the end; the exit status."""
        return self.start().wait()

    def unlock(self) -> None:
        """Remove the lock of a killed run, as `make unlock` does."""
        shutil.rmtree(self.directory / ".snakemake/locks", ignore_errors=True)

    def said(self) -> str:
        """The last line with an error."""
        return next(iter(reversed(self.errors())), "")

    def errors(self) -> list[str]:
        """Lines with an error in the logs of all jobs."""
        logs = sorted(self.results.glob("logs/**/*.log"))
        lines = (line for log in logs for line in log.read_text(errors="replace").splitlines())
        return [line for line in lines if line.startswith("error:")]

    def mend(self) -> None:
        """Run, and delete what the errors name, as they advise, until a run succeeds."""
        for _ in range(20):
            if self.run() == 0:
                return
            named = {name for line in self.errors() for name in _PLACE.findall(line)}
            broken = [place for name in named if (place := self.directory / name).exists()]
            if not broken:
                return
            for place in broken:
                shutil.rmtree(place) if place.is_dir() else place.unlink()

    def phases(self) -> set[str]:
        """The verbs that are running here."""
        running = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if (entry / "cwd").resolve() == self.directory and "splitcodec" in words[1]:
                    running.add(words[2])
        return running


Fault = Callable[[Workplace], Outcome]


def kill_all(process: subprocess.Popen) -> None:
    """-9 to snakemake and all its jobs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kills(place: Workplace, times: int, longest: float, dice: random.Random) -> Outcome:
    """Kill the run `times` times; deletes what the last stretch made when it came to its end."""
    outcome = Outcome("kill -9 at a random moment")
    while outcome.times < times:
        process = place.start()
        try:
            process.wait(timeout=dice.uniform(2.0, longest))
            shutil.rmtree(place.results)  # it came to its end: once more from the start
            continue
        except subprocess.TimeoutExpired:
            outcome.where.update(place.phases() or {"between jobs"})
        kill_all(process)
        place.unlock()
        outcome.times += 1
    return outcome


def damage(place: Workplace, dice: random.Random) -> Outcome:
    """Cut and change bytes of artefacts of every kind, and delete others."""
    outcome = Outcome("artefacts cut, changed, deleted")
    kinds = ("codecs/**/codec.safetensors", "bitstreams/**/*.rdc", "activations/**/*.parquet")
    for kind in kinds:
        files = sorted(place.results.glob(kind))
        for how in ("cut", "change", "delete"):
            path = files.pop(dice.randrange(len(files)))
            content = path.read_bytes()
            if how == "cut":
                path.write_bytes(content[: len(content) // 2])
            elif how == "change":
                path.write_bytes(content[:-9] + bytes(9))
            else:
                path.unlink()
            outcome.times += 1
            outcome.where[path.relative_to(place.results).parts[0]] += 1
    place.mend()
    return outcome


def full_disk(place: Workplace, megabytes: int) -> Outcome:
    """Run on a file system of so little space that it fills; then make room."""
    outcome = Outcome(f"disk of {megabytes} MB full", times=1)
    place.results.mkdir(parents=True)
    size = f"size={megabytes}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place.results)]
    subprocess.run(mount, check=True)
    try:
        if place.run() == 0:
            raise SystemExit(f"{megabytes} MB are enough: choose less")
        outcome.said = place.said()
        subprocess.run(["mount", "-o", "remount,size=1g", str(place.results)], check=True)
        place.run()
        copy = place.results.with_name("copy")
        shutil.copytree(place.results, copy, symlinks=True)
    finally:
        subprocess.run(["umount", str(place.results)], check=True)
    place.results.rmdir()
    copy.rename(place.results)
    return outcome


def two_at_once(place: Workplace) -> Outcome:
    """Two invocations in one directory: the second must say why it does not run."""
    outcome = Outcome("two invocations at once", times=1)
    first = place.start()
    while not list(place.directory.glob(".snakemake/locks/*")):
        time.sleep(0.1)
    second = place.start()
    outcome.equal = second.wait() != 0
    first.wait()
    log = (place.directory / "run.log").read_text()
    outcome.said = next((line for line in log.splitlines() if "cannot be locked" in line), "")
    return outcome


def small_experiment() -> dict:
    """The tiny experiment with one split and one λ a codec."""
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text()) | {"experiment": "faults"}
    params["models"][0]["splits"] = [1]
    codecs = {codec["name"]: codec for codec in params["codecs"]}
    codecs["klt"]["lambdas"] = [1.0e-3]
    params["codecs"] = [codecs["klt"], codecs["hyperprior"]]
    return params | {"baselines": {"codecs": ["int4"]}}


def main(
    kills_wanted: Annotated[int, typer.Option("--kills")] = 50,
    longest: Annotated[float, typer.Option(help="seconds to the next kill")] = 20.0,
    seed: int = 0,
    disk: Annotated[int, typer.Option(help="MB; 0: leave that out, it needs root")] = 1,
) -> None:
    """Print the table; exit status 1 if a result differs."""
    dice = random.Random(seed)
    outcomes: list[Outcome] = []
    with TemporaryDirectory() as name:
        whole = Workplace(Path(name).resolve() / "undisturbed", small_experiment())
        if whole.run() != 0:
            raise SystemExit((whole.directory / "run.log").read_text()[-3000:])
        expected = artefacts(whole.results)

        def hurt(
            kind: str, fault: Callable[[Workplace], Outcome], from_whole: bool = False
        ) -> None:
            place = Workplace(Path(name).resolve() / kind, small_experiment())
            if from_whole:
                for part in ("results", "data/models", "data/text", ".snakemake"):
                    source = whole.directory / part
                    shutil.copytree(source, place.directory / part, symlinks=True)
            outcome = fault(place)
            status = place.run()
            outcome.said = outcome.said or place.said()
            equal = status == 0 and artefacts(place.results) == expected
            outcome.equal = outcome.equal and equal
            outcomes.append(outcome)

        hurt("kills", lambda place: kills(place, kills_wanted, longest, dice))
        hurt("damage", lambda place: damage(place, dice), from_whole=True)
        hurt("twice", two_at_once)
        if disk:
            hurt("disk", lambda place: full_disk(place, disk))
    table = Table("fault", "times", "equal", "in", "said", title=f"{len(expected)} artefacts")
    for row in outcomes:
        where = ", ".join(f"{phase} {count}" for phase, count in row.where.most_common())
        table.add_row(row.fault, str(row.times), str(row.equal), where, row.said)
    Console(width=160).print(table)
    raise SystemExit(not all(row.equal for row in outcomes))


if __name__ == "__main__":
    typer.run(main)
