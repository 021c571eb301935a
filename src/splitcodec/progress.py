"""One progress bar for all long loops: on a terminal it moves, in a log it prints now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized

from rich.console import Console
from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


def progress(steps: Iterable, description: str, note: Callable[[], str] = lambda: "") -> Iterator:
    """Iterate over `steps`, showing how many are done and the rate on standard error.

    Where `steps` has a length, the time left as well; and what `note` has to say.
    """
    every = len(steps) if isinstance(steps, Sized) else None
    if sys.stderr.isatty():
        columns = [*Progress.get_default_columns(), "{task.fields[note]}"]
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=every, note="")
            for step in steps:
                yield step
                bar.update(task, advance=1, note=note())
        return
    started = shown = time.monotonic()
    for done, step in enumerate(steps, start=1):
        yield step
        now = time.monotonic()
        if done == every or now - shown >= _SECONDS_BETWEEN_LINES:
            rate = done / max(now - started, 1e-9)
            of, left = (f"/{every}", f", {(every - done) / rate:.0f} s left") if every else ("", "")
            said = f", {note()}" if note() else ""
            print(f"{description}: {done}{of}, {rate:.3g}/s{left}{said}", file=sys.stderr)
            shown = now
