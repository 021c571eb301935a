"""Slurm as its plugin of Snakemake has it, but a grid of jobs is submitted as one job array.

Snakemake finds this package by its name; `executor: slurm-arrays` uses it, and options begin with
`slurm-arrays-` instead of `slurm-`. Jobs of one rule that are ready together and ask for the same
are one call of sbatch, and each task runs its own command. In the plugin's own arrays (version
2.8.0) every task runs the first one's command around its own, so that a task that fails deletes
the first one's outputs (snakemake-executor-plugin-slurm, issue 447).
"""

import subprocess
from collections.abc import Iterator
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
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

# What Snakemake asks a plugin for.
__all__ = ["Executor", "ExecutorSettings", "common_settings"]

# Slurm refuses scripts of more than 4 MB (max_script_size), and a job's command takes kilobytes.
_LONGEST_ARRAY = 200


class Executor(SlurmExecutor):
    """Submits jobs that ask for the same as one array of Slurm's."""

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
