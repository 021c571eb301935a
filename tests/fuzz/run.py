"""Damages files of every kind and reads them: `python tests/fuzz/run.py --cases 200000`.

Each case is repeatable from the seed, the reader's name and its number. A case is a defect if it
raises what is not an error of ours, takes longer than five seconds, needs memory beyond a limit far
below what the damaged sizes claim, or reads other values where none may be read. Exits with 1 if
there is any.
"""

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import torch  # noqa: E402
from readers import Reader, readers  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from splitcodec.errors import SplitcodecError  # noqa: E402

SECONDS = 5.0
MEMORY = 1 << 30
"""Bytes of addresses that a case may take beyond what the process had before: the coder reserves
some that it does not touch."""
TOUCHED = 1 << 26
"""Bytes that all cases together may touch; the largest sequence that is allowed has 4 MiB."""
REFUSED, SAME, OTHER, DEFECT = "refused", "same", "other", "defects"


@dataclass
class Tally:
    """What became of the cases of one reader."""

    outcomes: Counter = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    slowest: float = 0.0


def run(reader: Reader, cases: int, seed: int, first: int = 0) -> Tally:
    """Read `cases` damaged files, numbered from `first`."""
    expected, tally = reader.read(reader.original), Tally()
    for number in range(first, first + cases):
        data = reader.damage(reader.original, Random(f"{seed} {reader.name} {number}"))
        faulthandler.dump_traceback_later(60, exit=True)
        started = time.perf_counter()
        outcome, said = _outcome(reader, data, expected)
        seconds = time.perf_counter() - started
        faulthandler.cancel_dump_traceback_later()
        tally.slowest = max(tally.slowest, seconds)
        if seconds > SECONDS:
            outcome, said = DEFECT, f"took {seconds:.1f} s"
        tally.outcomes[outcome] += 1
        if outcome == DEFECT:
            tally.defects.append(f"{reader.name}, case {number}: {said}")
    return tally


def _outcome(reader: Reader, data: bytes, expected: Any) -> tuple[str, str]:
    try:
        found = reader.read(data)
    except SplitcodecError as error:
        return (
            (DEFECT, f"an error of several lines: {error!r}")
            if "\n" in str(error)
            else (REFUSED, "")
        )
    except Exception as error:
        return DEFECT, f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]}"
    if _same(found, expected):
        return SAME, ""
    return (DEFECT, "was read as something else") if reader.exact else (OTHER, "")


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, torch.Tensor):
        return found.shape == expected.shape and torch.equal(found, expected)
    return found == expected


def limit_memory() -> None:
    """Let the process take only MEMORY more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def main() -> int:
    """All readers get the same number of cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name begins so")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    console, table = Console(soft_wrap=True, highlight=False), Table()
    for column in ("reader", REFUSED, SAME, OTHER, DEFECT, "slowest ms"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    started, total, defects = time.monotonic(), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        under_test = [r for r in readers(Path(folder)) if r.name.startswith(chosen.only)]
        for reader in under_test:  # caches fill before memory is limited
            reader.read(reader.original)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        limit_memory()
        for reader in under_test:
            tally = run(reader, -(-chosen.cases // len(under_test)), chosen.seed, chosen.first)
            counts = [f"{tally.outcomes[name]:,}" for name in (REFUSED, SAME, OTHER, DEFECT)]
            table.add_row(reader.name, *counts, f"{1000 * tally.slowest:.0f}")
            total += tally.outcomes
            defects += tally.defects
    console.print(table)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    figures = ", ".join(f"{total[name]:,} {name}" for name in (REFUSED, SAME, OTHER, DEFECT))
    console.print(f"{total.total():,} files in {time.monotonic() - started:.0f} s: {figures}")
    console.print(f"at most {grown:.0f} MiB were taken beyond what the process had before")
    if grown * (1 << 20) > TOUCHED:
        defects.append(f"more than {TOUCHED >> 20} MiB of memory were touched")
    for line in defects[:40]:
        console.print(line, markup=False)
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
