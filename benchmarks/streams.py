"""What memory does a streamed data set of pictures take? `python benchmarks/streams.py 5000 40000`.

Writes Parquet files of so many pictures of 50 kB (random bytes: a fetch does not decode them),
reads them as a data set by `splitcodec fetch-images` in a process of its own, and prints its peak.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer

PICTURE_BYTES, PICTURES_A_FILE = 50_000, 1000


def write(folder: Path, pictures: int) -> None:
    """A folder that `datasets` reads: column image, a struct of bytes and path."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for first in range(0, pictures, PICTURES_A_FILE):
        count = min(PICTURES_A_FILE, pictures - first)
        rows = [{"bytes": generator.bytes(PICTURE_BYTES), "path": None} for _ in range(count)]
        table = pa.table({"image": rows, "label": [0] * count})
        pq.write_table(table, folder / f"train-{first:09d}.parquet", row_group_size=100)


def fetch(folder: Path, out: Path) -> tuple[float, int]:
    """Seconds, and the most bytes that the process held."""
    source = f"{{source: {{kind: dataset, dataset: '{folder}'}}}}"
    command = [str(Path(sys.executable).with_name("splitcodec")), "fetch-images"]
    start, most = time.monotonic(), 0
    process = subprocess.Popen([*command, "--source", source, "--out", str(out)])
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        most = max(most, watched.memory_info().rss)
        time.sleep(0.02)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - start, most


def main(pictures: Annotated[list[int], typer.Argument(min=1)]) -> None:
    """One line a number of pictures."""
    for count in pictures:
        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory, "set"), count)
            seconds, most = fetch(Path(directory, "set"), Path(directory, "images.parquet"))
        print(f"{count:7,} pictures: {seconds:6.1f} s, at most {most / 1e6:,.0f} MB of memory")


if __name__ == "__main__":
    typer.run(main)
