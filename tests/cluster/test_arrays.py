"""Which jobs the executor submits as one array of Slurm's; `make slurm-test` runs such arrays."""

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
