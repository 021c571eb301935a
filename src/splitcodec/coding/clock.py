"""A stopwatch inside the coders, so that latency can tell network from coder."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class CoderClock:
    """Seconds spent between symbols and bytes, both ways, since the last reset."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def reset(self) -> None:
        """Back to zero."""
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


coder_clock = CoderClock()
"""The process's one clock, for measurements, which code one thing at a time."""
