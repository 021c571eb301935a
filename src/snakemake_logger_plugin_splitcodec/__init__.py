"""What a run of the workflow prints: one line a finished job, with the time that is left.

Snakemake finds this package by its name; `snakemake --logger splitcodec` uses it. On a terminal the
running jobs are shown below the lines, each with the last line of its log; in a plain log a line
now and then says the same. When a job fails, the end of its log is shown at once, with its command
and the one that runs it alone again.
"""

import logging
import math
import shlex
import sys
import threading
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_splitcodec.clock import Clock, Job, as_time

_LOG_LINES = 15
_LONGEST_SAYING = 60
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 30.0
# Mean seconds of each rule's jobs: of the last run here, or else of the run that was shipped.
_LAST_RUN = Path(".snakemake/durations.json")
_SHIPPED = Path("workflow/durations.json")
# What Snakemake says of itself, and what the lines here say in other words.
_NOISE = (
    "Assuming unrestricted",
    "Building DAG",
    "Complete log",
    "Conda environments",
    "Config file",
    "Elapsed time",
    "Execute ",
    "Exiting because",
    "Job stats",
    "Provided ",
    "Reasons:",
    "Rules claiming",
    "Select jobs",
    "Shutting down",
    "Singularity containers",
    "Using shell",
    "host:",
)
_SAID_BY_JOB_ERROR = "RuleException:\nCalledProcessError"
# Options that say which workflow this is, and how many values they take at most.
_SAYING_WHICH = {
    "--configfile": math.inf,
    "--configfiles": math.inf,
    "--config": math.inf,
    "-C": math.inf,
    "--profile": 1,
    "--workflow-profile": 1,
    "--snakefile": 1,
    "-s": 1,
    "--directory": 1,
    "-d": 1,
}


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into lines on standard error."""

    def __post_init__(self) -> None:
        self.console = Console(
            stderr=not self.common_settings.stdout,
            no_color=self.common_settings.nocolor or None,
            highlight=False,
            soft_wrap=True,
        )
        self.clock = Clock.with_expectations_of(_LAST_RUN, _SHIPPED)
        self._live: Live | None = None
        self._ended = threading.Event()
        self._spoke = time.monotonic()
        self._changes = threading.Lock()
        self._told_with_group: set[int] = set()

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a record means to the user, if anything."""
        try:
            with self._changes:
                self._handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Stop the display and say how long each phase took; further calls do nothing."""
        if not self._ended.is_set():
            self._ended.set()
            if self._live:
                self._live.stop()
            if self.clock.finished:
                took = as_time(self.clock.elapsed())
                self.console.print(
                    f"{self.clock.finished} jobs in {took}, {self._rate()}; by phase:"
                )
                self.console.print(self._summary())
                self.clock.save(_LAST_RUN)
        super().close()

    def _handle(self, record: logging.LogRecord) -> None:
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                self._begin(record)
            case LogEvent.JOB_INFO:
                self._job_starts(record)
            case LogEvent.JOB_FINISHED:
                self._job_ends(record.job_id)
            case LogEvent.JOB_ERROR if record.jobid in self._told_with_group:
                self._told_with_group.remove(record.jobid)
            case LogEvent.JOB_ERROR:
                self._job_fails(vars(record))
            case LogEvent.GROUP_ERROR:
                # Each job of the group, failed or not, comes once more by itself.
                for job in record.job_error_info:
                    self._job_fails(job)
                    self._told_with_group.add(job["jobid"])
                for name in record.aux_logs:
                    self._end_of_log(name)
            case LogEvent.ERROR if not record.getMessage().startswith(_SAID_BY_JOB_ERROR):
                self._print(Text(record.getMessage(), "red"))
            case None:
                self._message(record)

    def _begin(self, record: logging.LogRecord) -> None:
        if self.clock.jobs:
            return  # a dry run says it at its end once more
        totals = {rule: count for rule, count in record.stats.items() if rule != "total"}
        said = ", ".join(f"{rule} {count}" for rule, count in totals.items())
        self._print(Text(f"{sum(totals.values())} jobs: {said}"))
        self.clock.begin(totals)
        if self.common_settings.dryrun:
            return
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._running, console=self.console, transient=True)
            self._live.start()
        else:
            threading.Thread(target=self._show_signs_of_life, daemon=True).start()

    def _job_starts(self, record: logging.LogRecord) -> None:
        wildcards = (record.wildcards or {}).items()
        job = Job(
            record.rule_name,
            " ".join(f"{k}={v}" if v.isdigit() else v for k, v in wildcards),
            (getattr(record, "log", None) or [""])[0],
        )
        if self.common_settings.dryrun:
            self._print(Text(f"{job.rule}  {job.said or ', '.join(record.output)}"))
        else:
            self.clock.start(record.jobid, job)

    def _job_ends(self, job_id: int) -> None:
        job, took = self.clock.finish(job_id)
        rule = f"{job.rule} {self.clock.done(job.rule)}/{self.clock.total(job.rule)}"
        count = f"{self.clock.finished}/{self.clock.jobs}"
        line = Text(f"{count:>9}  {rule:<26} {as_time(took):>8}  {self._time_left():<34}  ")
        self._print(line.append(job.said, "dim"))

    def _job_fails(self, job: dict) -> None:
        self.clock.drop(job["jobid"])
        self._print(Text(f"FAILED    {job['rule_name']}", "bold red"))
        if job.get("rule_msg"):
            self._print(Text(f"because:  {job['rule_msg']}"))
        for name in filter(None, job.get("log") or []):
            self._end_of_log(name)
        if job.get("shellcmd"):
            self._print(Text(f"command:  {' '.join(job['shellcmd'].split())}"))
        if job.get("output"):
            self._print(Text(f"rerun it: {rerun(sys.argv[1:], job['output'][0])}"))

    def _end_of_log(self, name: str) -> None:
        self._print(Text(f"log:      {name}, which ends in"))
        self._print(Text("\n".join(f"  {line}" for line in _last_lines(Path(name)))))

    def _message(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        if record.levelno >= logging.WARNING:
            self._print(Text(message, "red" if record.levelno >= logging.ERROR else "yellow"))
        elif message not in {"", "None"} and not message.startswith(_NOISE):
            self._print(Text(message))

    def _print(self, text: Text) -> None:
        self.console.print(text)
        self._spoke = time.monotonic()

    def _time_left(self) -> str:
        left = self.clock.left()
        elapsed = f"{as_time(self.clock.elapsed())} elapsed"
        return elapsed if left is None else f"{elapsed}, about {as_time(left)} left"

    def _rate(self) -> str:
        return f"{60 * self.clock.finished / max(self.clock.elapsed(), 1e-9):.1f} jobs/min"

    def _running(self) -> Group:
        """What stands below the lines on a terminal."""
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(self.clock.jobs, self.clock.finished, width=30),
            f"{self.clock.finished}/{self.clock.jobs} jobs",
            self._rate(),
            self._time_left(),
        )
        jobs = (
            Text(
                f"  {job.rule}  {as_time(age)}  {job.said}  {_saying(job)}",
                "dim",
                no_wrap=True,
                overflow="ellipsis",
            )
            for job, age in self.clock.running()[:8]
        )
        return Group(bar, *jobs)

    def _show_signs_of_life(self) -> None:
        while not self._ended.wait(1.0):
            with self._changes:
                silent = time.monotonic() - self._spoke
                if silent >= _SECONDS_BETWEEN_SIGNS_OF_LIFE and self.clock.running():
                    self._print(
                        Text(
                            f"  running  {self.clock.finished}/{self.clock.jobs} jobs done,"
                            f" {self._rate()}, {self._time_left()}"
                        )
                    )
                    for job, age in self.clock.running():
                        line = f"           {job.rule}  {as_time(age)}  {job.said}  {_saying(job)}"
                        self._print(Text(line.rstrip()))

    def _summary(self) -> Table:
        table = Table("phase", box=None, pad_edge=False)
        for heading in ("jobs", "time", "longest"):
            table.add_column(heading, justify="right")
        for rule, times in self.clock.times.items():
            table.add_row(rule, str(len(times)), as_time(sum(times)), as_time(max(times)))
        return table


def rerun(arguments: list[str], target: str) -> str:
    """The command that makes `target` in the workflow that snakemake's `arguments` named."""
    kept, room = [], 0
    for word in arguments:
        option, _, value = word.partition("=")
        if word.startswith("-"):
            room = 0 if value else _SAYING_WHICH.get(option, 0)
            keep = option in _SAYING_WHICH
        else:
            keep, room = room > 0, room - 1
        if keep:
            kept.append(word)
    return shlex.join(["snakemake", "--cores", "all", *kept, "--", target])


def _saying(job: Job) -> str:
    """The last line of a running job's log, which tells how far it is."""
    try:
        lines = Path(job.log or ".").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""  # it has not said anything yet
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_LONGEST_SAYING]


def _last_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ["(there is no such file)"]
    # What several processes print as they end may be longer than what one of them had to say.
    said = [line for line in lines[:-_LOG_LINES] if line.startswith("error: ")]
    return said[-1:] + lines[-_LOG_LINES:] or ["(it is empty)"]
