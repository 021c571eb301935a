"""How long jobs took, and from that how long the rest will take."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Self


@dataclass(frozen=True)
class Job:
    """A job's rule, what tells it from others of that rule, and the path of its log."""

    rule: str
    said: str = ""
    log: str = ""


@dataclass
class Clock:
    """Counts jobs and seconds by rule.

    A rule's jobs are expected to take as long as those of it that have finished; before the first
    has, as long as in an earlier run, corrected by how this run compares with that one so far.
    The display reads from a thread of its own, hence the copies (`list`) before loops.
    """

    expectations: dict[str, float] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
    times: dict[str, list[float]] = field(default_factory=dict)
    _totals: dict[str, int] = field(default_factory=dict)
    _running: dict[int, tuple[Job, float]] = field(default_factory=dict)
    _began: float = 0.0

    @classmethod
    def with_expectations_of(cls, *paths: Path) -> Self:
        """A clock that expects what the first readable of these files says (see `save`)."""
        for path in paths:
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                return cls({str(rule): float(seconds) for rule, seconds in values.items()})
            except (OSError, ValueError, AttributeError, TypeError):
                continue
        return cls()

    def save(self, path: Path) -> None:
        """Write the mean seconds of each rule's jobs, for a later run's expectations."""
        means = {rule: round(fmean(times), 1) for rule, times in self.times.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self.expectations | means, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)

    def begin(self, totals: dict[str, int]) -> None:
        """A run of so many jobs of each rule begins now."""
        self._totals, self._began = dict(totals), self.now()

    def start(self, job_id: int, job: Job) -> None:
        """A job begins now."""
        self._running[job_id] = (job, self.now())

    def finish(self, job_id: int) -> tuple[Job, float]:
        """A job ends now; returns it and its seconds."""
        job, began = self._running.pop(job_id)
        took = self.now() - began
        self.times.setdefault(job.rule, []).append(took)
        return job, took

    def drop(self, job_id: int) -> None:
        """A job has failed, and may be tried again."""
        self._running.pop(job_id, None)

    def running(self) -> list[tuple[Job, float]]:
        """Jobs under way and their seconds so far."""
        return [(job, self.now() - began) for job, began in list(self._running.values())]

    @property
    def jobs(self) -> int:
        """Jobs of this run."""
        return sum(self._totals.values())

    @property
    def finished(self) -> int:
        """Jobs that have ended well."""
        return sum(map(len, list(self.times.values())))

    def done(self, rule: str) -> int:
        """Jobs of one rule that have ended well."""
        return len(self.times.get(rule, []))

    def total(self, rule: str) -> int:
        """Jobs of one rule in this run."""
        return self._totals.get(rule, 0)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.now() - self._began

    def left(self) -> float | None:
        """Seconds until all is done, as far as can be told; None when nothing is known yet."""
        if not self.times and not self.expectations:
            return None
        expected = {rule: self._expected(rule) for rule in self._totals}
        running = self.running()
        for rule, seconds in expected.items():
            # They show that such jobs take longer than was thought.
            late = [age for job, age in running if job.rule == rule and age > seconds]
            if late:
                expected[rule] = fmean([*self.times.get(rule, []), *late])
        work = sum((self.total(rule) - self.done(rule)) * expected[rule] for rule in expected)
        work -= sum(min(age, expected.get(job.rule, 0.0)) for job, age in running)
        busy = sum(map(sum, list(self.times.values()))) + sum(age for _, age in running)
        at_once = busy / self.elapsed() if self.elapsed() > 0 else 1.0
        return max(work, 0.0) / max(at_once, 1.0)

    def _expected(self, rule: str) -> float:
        """Seconds of a job of `rule`."""
        if rule in self.times:
            return fmean(self.times[rule])
        known = [r for r in list(self.times) if self.expectations.get(r)]
        if rule in self.expectations:
            then = sum(self.expectations[r] * len(self.times[r]) for r in known)
            now = sum(sum(self.times[r]) for r in known)
            return self.expectations[rule] * (now / then if known else 1.0)
        seconds = [fmean(times) for times in list(self.times.values())]
        return fmean(seconds or self.expectations.values())


def as_time(seconds: float) -> str:
    """Seconds as 1:02:03, 2:03 or, below ten, 4.5 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
