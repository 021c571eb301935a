"""One progress bar for all long loops: on a terminal it moves, in a log it prints now and then."""

import sys
import time
from collections.abc import Iterator, Sized

from rich.console import Console
from rich.progress import track

_SECONDS_BETWEEN_LINES = 10.0


def progress(steps: Sized, description: str) -> Iterator:
    """Iterate over `steps`, showing done of all, the rate and the time left on standard error."""
    if sys.stderr.isatty():
        yield from track(steps, description, console=Console(stderr=True), transient=True)
        return
    started = shown = time.monotonic()
    for done, step in enumerate(steps, start=1):
        yield step
        now = time.monotonic()
        if done == len(steps) or now - shown >= _SECONDS_BETWEEN_LINES:
            rate = done / max(now - started, 1e-9)
            left = (len(steps) - done) / rate
            print(
                f"{description}: {done}/{len(steps)}, {rate:.3g}/s, {left:.0f} s left",
                file=sys.stderr,
            )
            shown = now
