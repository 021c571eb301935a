"""One progress bar for all long loops: on a terminal it moves, in a log it prints now and then."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized

from rich.console import Console
from rich.progress import track

_SECONDS_BETWEEN_LINES = 10.0


def progress(steps: Iterable, description: str) -> Iterator:
    """Iterate over `steps`, showing how many are done and the rate on standard error.

    Where `steps` has a length, the time left as well.
    """
    if sys.stderr.isatty():
        yield from track(steps, description, console=Console(stderr=True), transient=True)
        return
    every = len(steps) if isinstance(steps, Sized) else None
    started = shown = time.monotonic()
    for done, step in enumerate(steps, start=1):
        yield step
        now = time.monotonic()
        if done == every or now - shown >= _SECONDS_BETWEEN_LINES:
            rate = done / max(now - started, 1e-9)
            of, left = (f"/{every}", f", {(every - done) / rate:.0f} s left") if every else ("", "")
            print(f"{description}: {done}{of}, {rate:.3g}/s{left}", file=sys.stderr)
            shown = now
