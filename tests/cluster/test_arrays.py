"""Which jobs the executor submits as one array of Slurm's, and which count as lost.

`make slurm-test` runs such arrays.
"""

import asyncio
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor

import snakemake_executor_plugin_slurm_arrays as slurm_arrays


class Job(SimpleNamespace):
    __hash__ = object.__hash__


def job(rule, memory=1000, group=False):
    resources = {"mem_mb": memory}
    return Job(name=rule, threads=1, resources=resources, is_group=lambda: group)


@pytest.fixture
def submitted(monkeypatch):
    """What a list of jobs becomes: those submitted alone, and arrays."""

    def submit(jobs, status="squeue", min_job_age=300, sacct=False):
        alone, arrays = [], []
        monkeypatch.setattr(SlurmExecutor, "run_jobs", lambda _, jobs: alone.extend(jobs))
        monkeypatch.setattr(slurm_arrays, "get_min_job_age", lambda: min_job_age)
        monkeypatch.setattr(slurm_arrays, "is_query_tool_available", lambda _: sacct)
        executor = object.__new__(slurm_arrays.Executor)
        settings = SimpleNamespace(status_command=status, init_seconds_before_status_checks=10)
        executor.workflow = SimpleNamespace(executor_settings=settings)
        executor.max_array_size = 1000
        executor._submit_array_jobs = arrays.append
        executor.run_jobs(jobs)
        return alone, arrays

    return submit


def test_jobs_that_ask_for_the_same_are_one_array(submitted):
    grid = [job("train_codec") for _ in range(4)]
    again = job("train_codec", memory=2000)
    other = job("evaluate")
    assert submitted([grid[0], other, *grid[1:], again]) == ([other, again], [grid])


def test_a_group_of_jobs_is_submitted_alone(submitted):
    groups = [job("grid", group=True) for _ in range(2)]
    assert submitted(groups) == (groups, [])


def test_a_long_grid_is_several_arrays(submitted):
    alone, arrays = submitted([job("train_codec") for _ in range(401)])
    assert ([len(array) for array in arrays], len(alone)) == ([200, 200], 1)


@pytest.mark.parametrize(
    "slurm", [{"status": "sacct", "sacct": True}, {"min_job_age": 5, "sacct": True}]
)
def test_there_are_no_arrays_where_sacct_is_asked(submitted, slurm):
    grid = [job("train_codec") for _ in range(4)]
    assert submitted(grid, **slurm) == (grid, [])


def test_squeue_is_asked_where_there_is_no_sacct(submitted):
    grid = [job("train_codec") for _ in range(4)]
    assert submitted(grid, min_job_age=5) == ([], [grid])


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the executor does when it asks for jobs; squeue says what the file `squeue` holds."""
    script = tmp_path / "bin/squeue"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\ntest "$SQUEUE_ARRAY" = 1 && cat {tmp_path}/squeue\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    monkeypatch.delenv("SQUEUE_ARRAY", raising=False)
    monkeypatch.setattr(slurm_arrays, "get_min_job_age", lambda: 60)
    monkeypatch.setattr(slurm_arrays, "is_query_tool_available", lambda _: False)

    async def still_there(_, jobs):
        for each in jobs:
            yield each

    monkeypatch.setattr(SlurmExecutor, "check_active_jobs", still_there)
    monkeypatch.setattr(SlurmExecutor, "__post_init__", lambda self, _: None)
    executor = object.__new__(slurm_arrays.Executor)
    settings = SimpleNamespace(status_command="squeue", init_seconds_before_status_checks=10)
    executor.workflow = SimpleNamespace(executor_settings=settings)
    executor.run_uuid, executor.next_seconds_between_status_checks = "run", 180
    executor.__post_init__()
    lost = []
    executor.report_job_error = lambda job, msg, aux_logs: lost.append((job.external_jobid, msg))

    def ask(said, *names):
        place = tmp_path / "squeue"
        place.unlink(missing_ok=True)
        if said is not None:
            place.write_text(said)
        jobs = [SimpleNamespace(external_jobid=n, aux={"slurm_logfile": "a.log"}) for n in names]

        async def left():
            return [job.external_jobid async for job in executor.check_active_jobs(jobs)]

        return asyncio.run(left()), lost, executor.next_seconds_between_status_checks

    return ask


def test_a_job_that_slurm_knows_no_more_is_lost_after_some_time(asked):
    for _ in range(2):
        left, lost, _ = asked("4_1|PENDING\n", "4_1", "4_2")
        assert (left, lost) == (["4_1", "4_2"], [])
    left, lost, _ = asked("4_1|PENDING\n", "4_1", "4_2")
    assert left == ["4_1"]
    assert [name for name, message in lost if "knows nothing of job 4_2" in message] == ["4_2"]


def test_no_job_is_lost_while_slurm_does_not_answer(asked):
    for said in (None, None, "4_1|RUNNING\n", None, None, None):
        left, lost, _ = asked(said, "4_1")
        assert (left, lost) == (["4_1"], [])


def test_jobs_are_asked_for_before_slurm_forgets_them(asked):
    assert asked("4_1|RUNNING\n", "4_1")[2] == 20
