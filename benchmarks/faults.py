"""Hurt a run in every way, then run once more: `python benchmarks/faults.py --kills 50`.

Each fault happens to a run of a small experiment in a directory of its own; afterwards one more
run must give the artefacts of an undisturbed one, byte for byte, timing aside. Prints a row a
fault: how often it happened, in which phases, whether the results are equal, and what was said.

Named faults alone are made: `faults.py damage network`. With `--directory DIR` the undisturbed run
and the outcomes are kept there, and a later call adds to them.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"
_PLACE = re.compile(r"(?:results|data)/[^\s:,;)]*")
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/inputs")]

from fake_hub import serve  # noqa: E402

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
        (directory / "data").mkdir(parents=True, exist_ok=True)
        if not (directory / "data/tiny").exists():
            (directory / "data/tiny").symlink_to(ROOT / "data/tiny")
        (directory / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self, *targets: str, **environment: str) -> subprocess.Popen:
        """Snakemake in a session of its own, with which it can be killed."""
        command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        command += ["--configfile", "params.yaml", "--rerun-incomplete", "--keep-going", "--"]
        with (self.directory / "run.log").open("a") as log:
            return subprocess.Popen(
                [*command, *targets],
                cwd=self.directory,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *targets: str, **environment: str) -> int:
        """Run to the end; the exit status."""
        return self.start(*targets, **environment).wait()

    def unlock(self) -> None:
        """Remove the lock of a killed run, as `make unlock` does."""
        shutil.rmtree(self.directory / ".snakemake/locks", ignore_errors=True)

    def errors(self) -> list[str]:
        """Lines with an error in the logs of all jobs."""
        logs = sorted(self.results.glob("logs/**/*.log"))
        lines = (line for log in logs for line in log.read_text(errors="replace").splitlines())
        return [line for line in lines if line.startswith("error:")]

    def said(self, words: str) -> str:
        """The last line of snakemake with these words."""
        lines = (self.directory / "run.log").read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if words in line), "")

    def tracebacks(self) -> int:
        """How many jobs ended in one, which none should."""
        logs = self.results.glob("logs/**/*.log")
        return sum("Traceback" in log.read_text(errors="replace") for log in logs)

    def phases(self) -> set[str]:
        """The verbs that are running here."""
        running = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if (entry / "cwd").resolve() == self.directory and "splitcodec" in words[1]:
                    running.add(words[2])
        return running


def small_experiment() -> dict:
    """The tiny experiment with one split and one λ a codec."""
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text()) | {"experiment": "faults"}
    params["models"][0]["splits"] = [1]
    codecs = {codec["name"]: codec for codec in params["codecs"]}
    codecs["klt"]["lambdas"] = [1.0e-3]
    params["codecs"] = [codecs["klt"], codecs["hyperprior"]]
    return params | {"baselines": {"codecs": ["int4"]}}


class Experiment:
    """The undisturbed run, and places for disturbed ones."""

    def __init__(self, directory: Path, dice: random.Random) -> None:
        self.directory, self.dice = directory, dice
        self.whole = Workplace(directory / "undisturbed", small_experiment())
        if self.whole.run() != 0:
            raise SystemExit(self.whole.said("rror"))
        self.expected = artefacts(self.whole.results)

    def place(self, name: str, whole: bool = False) -> Workplace:
        """A new place; with `whole` everything is there already."""
        shutil.rmtree(self.directory / name, ignore_errors=True)
        place = Workplace(self.directory / name, small_experiment())
        for part in ("results", "data/models", "data/text", ".snakemake") if whole else ():
            shutil.copytree(self.whole.directory / part, place.directory / part, symlinks=True)
        return place

    def repaired(self, place: Workplace) -> bool:
        """Whether one more run makes the artefacts of the undisturbed one."""
        return place.run() == 0 and artefacts(place.results) == self.expected


def kills(experiment: Experiment, times: int, longest: float) -> Iterator[Outcome]:
    """Kill the run `times` times; it begins anew whenever it came to its end."""
    outcome = Outcome("kill -9")
    place = experiment.place("kills")
    while outcome.times < times:
        process = place.start()
        try:
            process.wait(timeout=experiment.dice.uniform(2.0, longest))
        except subprocess.TimeoutExpired:
            outcome.where.update(place.phases() or {"between jobs"})
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            place.unlock()
            outcome.times += 1
        else:
            outcome.equal &= experiment.repaired(place)
            for made in ("results", "data/models", "data/text", ".snakemake"):
                shutil.rmtree(place.directory / made)
    outcome.equal &= experiment.repaired(place)
    yield outcome


INTERMEDIATES = {
    "text": "data/text/*/*.parquet",
    "model": "data/models/*/*.safetensors",
    "tokens": "results/*/tokens/*/*.parquet",
    "activations": "results/*/activations/*/*/*.parquet",
    "sensitivity": "results/*/sensitivity/*/*.safetensors",
    "codecs": "results/*/codecs/*/*/*/*/codec.*",
    "bitstreams": "results/*/bitstreams/*/*/*/*/*.rdc",
    "evaluation": "results/*/evaluation/*/*/*/*.json",
    "references": "results/*/references/*.json",
    "bounds": "results/*/bounds/*/*.json",
    "points": "results/*/points.parquet",
}


def damage(experiment: Experiment) -> Iterator[Outcome]:
    """Hurt one file of every kind that a later step reads; mend as the messages say."""
    for how in ("cut in half", "one byte changed", "deleted"):
        outcome = Outcome(f"intermediate {how}")
        place = experiment.place("damage", whole=True)
        for kind, pattern in INTERMEDIATES.items():
            path = experiment.dice.choice(sorted(place.directory.glob(pattern)))
            content = bytearray(path.read_bytes())
            content[experiment.dice.randrange(len(content))] ^= 1 << experiment.dice.randrange(8)
            if how == "deleted":
                path.unlink()
            else:
                changed = how == "one byte changed"
                path.write_bytes(content if changed else content[: len(content) // 2])
            outcome.times += 1
            outcome.where[kind] += 1
        mend(place, outcome)
        # What nothing needs any more is made again when it is asked for.
        gone = experiment.expected.keys() - artefacts(place.results).keys()
        outcome.equal &= not gone or place.run(*(f"results/faults/{name}" for name in gone)) == 0
        outcome.equal &= artefacts(place.results) == experiment.expected
        yield outcome


def mend(place: Workplace, outcome: Outcome) -> None:
    """Run, and delete what the errors name, as they advise, until a run comes to its end."""
    for _ in range(3 * len(INTERMEDIATES)):
        if place.run() == 0:
            return
        outcome.said = next(iter(place.errors()), outcome.said)
        outcome.equal &= not place.tracebacks()
        named = {name for line in place.errors() for name in _PLACE.findall(line)}
        for broken in {place.directory / name for name in named}:
            if broken.is_dir() and not broken.is_symlink():
                shutil.rmtree(broken)
            else:
                broken.unlink(missing_ok=True)


def disk(experiment: Experiment) -> Iterator[Outcome]:
    """Results on a file system of too little space; then there is more."""
    whole = sum(path.stat().st_size for path in experiment.whole.results.rglob("*"))
    outcome = Outcome("disk full")
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        place = experiment.place("disk")
        place.results.mkdir(parents=True)
        options = f"size={int(share * whole)}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place.results)]
        if subprocess.run(mount).returncode != 0:
            raise SystemExit("a small disk can only be had by root")
        try:
            if place.run() == 0:
                raise SystemExit(f"{options} is enough")
            outcome.times += 1
            made = {path.parts[2] for path in relative(place) if path.suffix != ".log"}
            outcome.where[f"after {len(made)} kinds of artefact"] += 1
            outcome.said = place.said("No space left") or outcome.said
            remount = ["mount", "-o", "remount,size=1g", str(place.results)]
            subprocess.run(remount, check=True)
            outcome.equal &= experiment.repaired(place)
        finally:
            subprocess.run(["umount", "--lazy", str(place.results)], check=True)
    yield outcome


def relative(place: Workplace) -> list[Path]:
    """All files of the results."""
    files = (path for path in place.results.rglob("*") if path.is_file())
    return [path.relative_to(place.directory) for path in files]


def network(experiment: Experiment) -> Iterator[Outcome]:
    """No hub while model and text are fetched, then a hub; no MLflow server for a whole run."""
    outcome = Outcome("network away while fetching")
    hub = experiment.directory / "hub"
    shutil.rmtree(hub, ignore_errors=True)
    shutil.copytree(experiment.whole.directory / "data/models/random-llama", hub)
    (hub / "splitcodec.json").unlink()
    params = small_experiment()
    source = {"kind": "hub", "repository": "lab/toy", "revision": "main"}
    params["models"][0]["source"] = source
    made = []
    with serve("lab/toy", "model", hub) as (address, _):
        for name in ("always", "away"):
            shutil.rmtree(experiment.directory / name, ignore_errors=True)
            place = Workplace(experiment.directory / name, params)
            reached = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(place.directory / "cache")}
            if name == "away":
                refused = place.run("inputs", **reached | {"HF_ENDPOINT": NOWHERE})
                outcome.times += 1
                outcome.where["fetch-model"] += 1
                outcome.said = next(iter(place.errors()), "")
                outcome.equal &= refused != 0 and not place.tracebacks()
            outcome.equal &= place.run("inputs", **reached | {"HF_ENDPOINT": address}) == 0
            made.append(artefacts(place.results))
    outcome.equal &= made[0] == made[1] != {}
    yield outcome

    outcome = Outcome("MLflow server away", times=1, where=Counter({"train": 1, "track": 1}))
    place = experiment.place("tracking")
    outcome.equal = place.run(MLFLOW_TRACKING_URI=NOWHERE) == 0
    outcome.said = (place.results / "logs/track.log").read_text().strip().splitlines()[-1]
    waiting = "mlflow-queue/**/*.jsonl"
    outcome.equal &= bool(list(place.results.glob(waiting)))
    sent = subprocess.run(
        ["splitcodec", "track", "sync", str(place.results)], cwd=place.directory, check=False
    )
    outcome.equal &= sent.returncode == 0 and not list(place.results.glob(waiting))
    outcome.equal &= experiment.repaired(place)
    yield outcome


def twice(experiment: Experiment) -> Iterator[Outcome]:
    """Two invocations in one directory: the second must say why it does not run."""
    outcome = Outcome("two invocations at once", times=1)
    place = experiment.place("twice")
    first = place.start()
    while not place.phases():
        time.sleep(0.1)
    outcome.where.update(place.phases())
    second = place.run()
    outcome.equal = second != 0 and first.poll() is None and first.wait() == 0
    outcome.said = place.said("cannot be locked")
    outcome.equal &= experiment.repaired(place)
    yield outcome


FAULTS: dict[str, Callable[[Experiment], Iterator[Outcome]]] = {
    "damage": damage,
    "disk": disk,
    "network": network,
    "twice": twice,
}


def main(
    faults: Annotated[list[str] | None, typer.Argument(help="kills, damage, ...; or all")] = None,
    kills_wanted: Annotated[int, typer.Option("--kills")] = 50,
    longest: Annotated[float, typer.Option(help="seconds to the next kill")] = 20.0,
    directory: Annotated[Path | None, typer.Option(help="to keep, and to continue")] = None,
    seed: int = 0,
) -> None:
    """Print the table; exit status 1 if a result differs."""
    known = FAULTS | {"kills": lambda experiment: kills(experiment, kills_wanted, longest)}
    with TemporaryDirectory() as scratch:
        place = (directory or Path(scratch)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        kept = place / "outcomes.json"
        outcomes = [Outcome(**row) for row in json.loads(kept.read_text())] if kept.exists() else []
        experiment = Experiment(place, random.Random(seed + len(outcomes)))
        for fault in faults or known:
            for outcome in known[fault](experiment):
                outcomes.append(outcome)
                kept.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    show(outcomes, len(experiment.expected))
    raise SystemExit(not all(row.equal for row in outcomes))


def show(outcomes: list[Outcome], count: int) -> None:
    """The table, one row a kind of fault."""
    table = Table("fault", "times", "equal", "in", "said", title=f"{count} artefacts")
    for fault in dict.fromkeys(row.fault for row in outcomes):
        rows = [row for row in outcomes if row.fault == fault]
        where = sum((Counter(row.where) for row in rows), Counter())
        listed = ", ".join(f"{phase} {times}" for phase, times in where.most_common())
        said = next((row.said for row in rows if row.said), "")
        equal = all(row.equal for row in rows)
        table.add_row(fault, str(sum(row.times for row in rows)), str(equal), listed, said)
    Console(width=180).print(table)


if __name__ == "__main__":
    typer.run(main)
