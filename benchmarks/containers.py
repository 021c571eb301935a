"""What memory does a long container take? `python benchmarks/containers.py STORE CODEC`.

Repeats the sequences of a store until there are `--tokens` of them, encodes them, checks the
container and decodes it, each by its verb in a process of its own, and prints seconds and each
process's peak, libraries included but not the files that are mapped. Of 576 channels it needs 3.6
kB of disk a token, where it is called.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer

from splitcodec.activations.store import Activations, ActivationWriter


def write(source: Activations, tokens: int, out: Path) -> None:
    """A store of at least so many tokens."""
    count, left = 0, tokens
    with ActivationWriter(out, source.channels, torch.float16, source.metadata) as writer:
        while left > 0:
            batch = source.read([count % len(source)])
            writer.write(batch.documents[0], count, batch.tokens[0], batch.representation[0])
            count, left = count + 1, left - len(batch.tokens[0])


def run(*arguments: object) -> tuple[float, int]:
    """Seconds of a verb, and the most bytes that its process held, without mapped files."""
    program = Path(sys.executable).with_name("splitcodec")
    start, most = time.monotonic(), 0
    process = psutil.Popen([program, *map(str, arguments)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        held = process.memory_info()
        most = max(most, held.rss - held.shared)
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{arguments[0]} failed")
    return time.monotonic() - start, most


def main(
    store: Path, codec: Path, tokens: Annotated[list[int], typer.Option()] = [100_000, 1_000_000]
) -> None:
    """One line a verb and number of tokens."""
    source = Activations(store)
    for count in tokens:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
            names = "a.parquet", "a.rdc", "b.parquet"
            long, stream, decoded = (Path(directory, name) for name in names)
            write(source, count, long)
            verbs = {
                "encode": (long, "--codec", codec, "--out", stream),
                "inspect --verify": (stream, "--verify"),
                "decode": (stream, "--codec", codec, "--out", decoded),
            }
            for verb, arguments in verbs.items():
                seconds, most = run(verb.split()[0], *arguments)
                cost = f"{seconds:6.1f} s, {most / 1e6:6,.0f} MB"
                print(f"{count:9,} tokens, {verb:16}: {cost}", flush=True)
            before, after = (path.stat().st_size / 1e6 for path in (long, stream))
            print(f"{count:9,} tokens: {before:,.1f} MB of fp16 became {after:,.1f} MB")


if __name__ == "__main__":
    typer.run(main)
