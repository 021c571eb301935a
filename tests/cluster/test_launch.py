import subprocess
import sys

import pytest

from splitcodec.errors import InputError, SettingsError
from splitcodec.launch import launch, torchrun

# In one write, since processes share the pipe and print() may give its parts one by one.
SAY = (
    "import os; e = os.environ.get; os.write(1, b'rank %a of %a\\n' % (e('RANK'), e('WORLD_SIZE')))"
)


def started(nodes, processes):
    code = f"from splitcodec.launch import launch; launch(['python', '-c', {SAY!r}], {nodes}, "
    command = [sys.executable, "-c", f"{code}{processes})"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    return sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))


def test_one_process_is_the_command_itself():
    assert started(1, 1) == ["rank None of None"]


def test_several_processes_know_their_rank():
    assert started(1, 2) == ["rank '0' of '2'", "rank '1' of '2'"]


def test_on_several_nodes_slurm_starts_one_torchrun_each():
    command = torchrun(["splitcodec", "train"], 2, 4, "node7", "31234")
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert "--rdzv-endpoint=node7:21234" in command
    assert "--nproc-per-node=4" in command
    assert command[-2:] == ["splitcodec", "train"]


def test_a_job_that_slurm_does_not_know(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    squeue = tmp_path / "squeue"
    squeue.write_text(
        "#!/bin/sh\necho slurm_load_jobs error: Invalid job id specified >&2\nexit 1\n"
    )
    squeue.chmod(0o755)
    with pytest.raises(InputError, match="Invalid job id specified"):
        launch(["true"], 2, 1)


def test_a_node_without_slurms_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="squeue cannot be run"):
        launch(["true"], 2, 1)


def test_a_command_that_is_not_there_is_named():
    with pytest.raises(InputError, match="nosuchprogram cannot be run: No such file"):
        launch(["nosuchprogram"], 1, 1)


def test_several_nodes_need_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(SettingsError, match="Slurm"):
        launch(["true"], 2, 1)
