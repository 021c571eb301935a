"""Runs of the workflow in a directory of their own."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def snakemake(directory, *arguments, config=ROOT / "params/tiny.yaml"):
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(directory)]
    command += ["--cores", "2", *arguments, "--configfile", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)
