"""Slurm as its plugin of Snakemake has it, but a grid of jobs is submitted as one job array.

Snakemake finds this package by its name; `executor: slurm-arrays` uses it, and options begin with
`slurm-arrays-` instead of `slurm-`. Jobs of one rule that are ready together and ask for the same
are one call of sbatch, and each task runs its own command. In the plugin's own arrays (version
2.8.0) every task runs the first one's command around its own, so that a task that fails deletes
the first one's outputs (snakemake-executor-plugin-slurm, issue 447).
"""

import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from pathlib import Path

from snakemake_executor_plugin_slurm import (
    Executor as SlurmExecutor,
)
from snakemake_executor_plugin_slurm import (
    ExecutorSettings,
    common_settings,
    get_job_wildcards,
    get_min_job_age,
    get_submit_command,
    is_query_tool_available,
    set_gres_string,
    validate_or_get_slurm_job_id,
    validate_slurm_extra,
)
from snakemake_executor_plugin_slurm.job_status_query import query_job_status_squeue
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

# What Snakemake asks a plugin for.
__all__ = ["Executor", "ExecutorSettings", "common_settings"]

# Slurm refuses scripts of more than 4 MB (max_script_size), and a job's command takes kilobytes.
_LONGEST_ARRAY = 200
_ABSENCES = 3
"""Times in a row that Slurm does not know a job before it counts as lost."""


class Executor(SlurmExecutor):
    """Submits jobs that ask for the same as one array of Slurm's."""

    def __post_init__(self, test_mode: bool = False) -> None:
        """See the plugin."""
        super().__post_init__(test_mode)
        # squeue then has a line for each task, also of an array that waits or was cancelled.
        os.environ["SQUEUE_ARRAY"] = "1"
        self._absences: Counter[str] = Counter()

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit jobs that are ready, which must neither wait for each other nor share files."""
        arrays = list(self._arrays(jobs))
        super().run_jobs([job for array in arrays if len(array) == 1 for job in array])
        for array in arrays:
            if len(array) > 1:
                self._submit_array_jobs(array)

    def _arrays(self, jobs: list[JobExecutorInterface]) -> Iterator[list[JobExecutorInterface]]:
        longest = _LONGEST_ARRAY if self._squeue_is_asked else 1
        alike: dict[object, list[JobExecutorInterface]] = {}
        for job in jobs:
            asked = (job.name, job.threads, *sorted(map(str, job.resources.items())))
            alike.setdefault(job if job.is_group() else asked, []).append(job)
        size = min(longest, self.max_array_size)
        for group in alike.values():
            yield from (group[start : start + size] for start in range(0, len(group), size))

    @cached_property
    def _squeue_is_asked(self) -> bool:
        """By sacct the plugin cannot tell the tasks of an array apart."""
        settings = self.workflow.executor_settings
        remembered = get_min_job_age() or 0
        forgotten = remembered < 3 * settings.init_seconds_before_status_checks
        falls_back = forgotten and is_query_tool_available("sacct")
        return self.get_status_command() == "squeue" and not falls_back

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncIterator[SubmittedJobInfo]:
        """As the plugin has it, which waits for ever for a job that Slurm knows no more: cancelled
        before it began, or forgotten before it was asked for."""
        known = self._known_to_squeue() if active_jobs and self._squeue_is_asked else None
        async for job in super().check_active_jobs(active_jobs):
            name = job.external_jobid
            self._absences[name] += 1
            if known is None or name in known:
                self._absences[name] = 0
            if self._absences[name] < _ABSENCES:
                yield job
            else:
                lost = f"Slurm knows nothing of job {name} any more: it was cancelled, or forgotten"
                self.report_job_error(job, msg=lost, aux_logs=[str(job.aux["slurm_logfile"])])
        if self._squeue_is_asked and (remembered := get_min_job_age()):
            # The plugin asks ever more rarely, up to 180 s.
            self.next_seconds_between_status_checks = min(
                self.next_seconds_between_status_checks, remembered / 3
            )

    def _known_to_squeue(self) -> set[str] | None:
        """The jobs of this run that Slurm remembers, or None if it does not answer."""
        command = query_job_status_squeue(self.run_uuid)
        done = subprocess.run(command, shell=True, text=True, capture_output=True)
        if done.returncode:
            return None
        return {line.partition("|")[0].strip() for line in done.stdout.splitlines()}

    def run_array_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit an array, in a thread of its own; what fails is told of every job."""
        logs = self.slurm_logdir / f"rule_{jobs[0].name}"
        try:
            logs.mkdir(parents=True, exist_ok=True)
            number = self._sbatch(jobs, logs / "%A_%a.log")
        except Exception as error:  # nobody reads what a thread of the pool raises
            for job in jobs:
                self._report_job_error_threadsafe(
                    SubmittedJobInfo(job), f"The job array was not submitted: {error}"
                )
            return
        self.logger.info(f"{len(jobs)} jobs of {jobs[0].name} are job array {number} of Slurm's.")
        for task, job in enumerate(jobs, start=1):
            name = f"{number}_{task}"
            told = SubmittedJobInfo(job, name, {"slurm_logfile": logs / f"{name}.log"})
            self._report_job_submission_threadsafe(told)

    def _sbatch(self, jobs: list[JobExecutorInterface], log: Path) -> str:
        """Hand an array to Slurm, which names it."""
        first = jobs[0]
        validate_slurm_extra(first)
        parameters = {
            "run_uuid": self.run_uuid,
            "slurm_logfile": log,
            "comment_str": f"rule_{first.name}_wildcards_{get_job_wildcards(first)}",
            "account": next(self.get_account_arg(first)),
            "partition": self.get_partition_arg(first),
            "workdir": self.workflow.workdir_init,
        }
        call = get_submit_command(
            first,
            parameters,
            settings=self.workflow.executor_settings,
            failed_nodes=self._failed_nodes,
        )
        call += f"{set_gres_string(first)} --array=1-{len(jobs)} /dev/stdin"
        cases = [
            f"{task}) {self.format_job_exec(job)} ;;" for task, job in enumerate(jobs, start=1)
        ]
        script = "\n".join(["#!/bin/sh", "case $SLURM_ARRAY_TASK_ID in", *cases, "esac"])
        done = subprocess.run(call, shell=True, text=True, input=script, capture_output=True)
        if done.returncode:
            raise WorkflowError(f"{done.stderr.strip()}; the call was: {call}")
        return validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)
