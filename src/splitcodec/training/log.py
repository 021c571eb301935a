"""The history of a training: what its steps and validations gave, and how long it took."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splitcodec.devices import first_process

_LARGEST_EXPONENT = 700.0
"""Of what a float holds."""
_SHOWN = {
    "loss": "loss",
    "bits_per_token": "bits a token",
    "perplexity": "perplexity",
    "tokens_per_second": "tokens a second",
}
"""Of what is logged, what a terminal shows, and as what."""

Figures = dict[str, float]


class Log:
    """Training history: entries in memory, appended to a file of JSON lines as they come, and the
    time that training took.

    `watch` is called with each entry as well.
    """

    def __init__(
        self, path: Path | None = None, watch: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.entries: list[dict[str, Any]] = []
        self._began, self._before = time.monotonic(), 0.0
        self._path = path
        self._watch = watch

    def start(self, entries: list[dict[str, Any]]) -> None:
        """Begin with what a checkpoint remembers; lines written after it are forgotten.

        Entries of an earlier loop, which a later one's checkpoint has as well, come once.
        """
        if len(entries) < len(self.entries) or not first_process():
            return
        self.entries = list(entries)
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self.text(), encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Since training began, that of killed runs up to their last checkpoint included."""
        return self._before + time.monotonic() - self._began

    def go_on(self, seconds: float) -> None:
        """A checkpoint says how long it took to come there."""
        self._before = max(self._before, seconds)

    def note(self, phase: str, step: int, **figures: float) -> None:
        """One more entry, of the figures that are finite; of several processes the first's.

        With a cross-entropy in nats comes its perplexity.
        """
        if not first_process():
            return
        if "cross_entropy" in figures:
            figures["perplexity"] = math.exp(min(figures["cross_entropy"], _LARGEST_EXPONENT))
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        entry = {"phase": phase, "step": step, **finite}
        self.entries.append(entry)
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
        if self._watch:
            self._watch(entry)

    def move_to(self, path: Path) -> None:
        """Put the file at its final place."""
        path.write_text(self.text(), encoding="utf-8")
        if self._path:
            self._path.unlink(missing_ok=True)

    def text(self) -> str:
        """JSON lines."""
        return "".join(map(_line, self.entries))

    def last_figures(self) -> str:
        """What was noted last, for who watches the terminal."""
        if not self.entries:
            return ""
        shown = {name: value for name, value in self.entries[-1].items() if name in _SHOWN}
        return ", ".join(f"{_SHOWN[name]} {value:.4g}" for name, value in shown.items())


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
