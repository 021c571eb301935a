"""What the order of work itself costs: `python benchmarks/dag.py --jobs 10000`.

Makes a params file whose experiment has about that many jobs, and times `snakemake --dry-run` on
it: seconds, and the most memory that it held. Nothing of the experiment is run.
"""

import resource
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import yaml

ROOT = Path(__file__).parents[1]
SPLITS, LAMBDAS = 10, 25


def experiment(jobs: int) -> dict:
    """The tiny experiment with a grid of splits, λ and seeds; a job a point."""
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    params["models"][0]["splits"] = list(range(1, SPLITS + 1))
    params["models"][0]["source"]["blocks"] = SPLITS + 2
    seeds = max(1, jobs // (SPLITS * LAMBDAS))
    grid = [1.0e-5 * 1.3**k for k in range(LAMBDAS)]
    params["codecs"] = [{"name": "hyperprior", "lambdas": [float(f"{x:.3g}") for x in grid]}]
    return params | {"seeds": list(range(seeds)), "experiment": "grid"}


def main(jobs: Annotated[list[int], typer.Option()] = [100, 1000, 10_000]) -> None:
    """Print jobs, seconds and MB of each dry run."""
    for wanted in jobs:
        with TemporaryDirectory() as directory:
            params = Path(directory) / "grid.yaml"
            params.write_text(yaml.safe_dump(experiment(wanted)))
            command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet"]
            command += ["rules", "--directory", directory, "--configfile", str(params)]
            started = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            took = time.monotonic() - started
        total = next(line for line in done.stdout.splitlines() if line.startswith("total"))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        typer.echo(f"{total.split()[1]:>7} jobs {took:8.1f} s {peak:8.0f} MB")


if __name__ == "__main__":
    typer.run(main)
