"""Start a command as the several processes of one training, on one node or on all of a Slurm job.

One process is the command itself. More are torchrun's, which tells each its rank and where to meet;
on several nodes Slurm starts one torchrun a node.
"""

import os
import subprocess

from splitcodec.errors import InputError, SettingsError


def launch(command: list[str], nodes: int, processes: int) -> None:
    """Become `command`, as `processes` processes on each of `nodes` nodes; does not return.

    Raises SettingsError where several nodes are asked for outside of a Slurm job, and InputError
    where Slurm does not know the job's nodes, or the command cannot be run.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if nodes > 1 and job is None:
        raise SettingsError(f"{nodes} nodes can only be had from Slurm; use --profile slurm")
    if nodes * processes > 1:
        command = torchrun(command, nodes, processes, _first_node(job) if nodes > 1 else "", job)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise InputError(f"{command[0]} cannot be run: {error.strerror}") from None


def torchrun(
    command: list[str], nodes: int, processes: int, meeting: str, job: str | None
) -> list[str]:
    """The command that starts `command` on all nodes, which meet at the host `meeting`."""
    start = ["torchrun", f"--nnodes={nodes}", f"--nproc-per-node={processes}"]
    if nodes == 1:
        return [*start, "--standalone", "--no-python", *command]
    # A port of the job's own, so that two jobs whose first node is the same do not meet.
    port = 20_000 + int(job or 0) % 10_000
    start += ["--rdzv-backend=c10d", f"--rdzv-id={job}", f"--rdzv-endpoint={meeting}:{port}"]
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    return [*step, *start, "--no-python", *command]


def _first_node(job: str | None) -> str:
    """Host name of a job's first node, asked of Slurm: Snakemake's job steps do not tell."""
    asked = ["squeue", "--noheader", "--jobs", str(job), "--format=%N"]
    return _said(["scontrol", "show", "hostnames", _said(asked)]).split()[0]


def _said(command: list[str]) -> str:
    """What a command of Slurm prints; raises InputError if it refuses, or says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise InputError(
            f"{command[0]} cannot be run ({error.strerror}); is this a node of Slurm?"
        ) from None
    if done.returncode or not done.stdout.strip():
        reason = done.stderr.strip() or "it says nothing"
        raise InputError(f"{' '.join(command)} names no nodes ({reason}); submit the job again")
    return done.stdout.strip()
