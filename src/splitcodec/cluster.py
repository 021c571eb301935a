"""What a cluster is called and what the jobs of a phase ask of it.

`workflow/profiles/slurm/cluster.yaml` is the place where users say it. The workflow turns it into
resources, which only a cluster's executor looks at.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from splitcodec.errors import SettingsError, reason_of
from splitcodec.settings import Strict, describe

PhaseName = Literal[
    "fetch",
    "tokenise",
    "pretrain",
    "extract",
    "sensitivity",
    "baselines",
    "train",
    "tune",
    "encode",
    "evaluate",
    "latency",
    "bounds",
    "report",
]

SHARED = ("tune",)
"""Phases whose work several processes share."""


class Phase(Strict):
    """What one job gets on each of its nodes: memory in MB at the first attempt, time in minutes.

    A training that is shared has one process a GPU, or as many as `processes` says.
    """

    cpus: PositiveInt
    memory: PositiveInt
    minutes: PositiveInt
    gpus: NonNegativeInt = 0
    nodes: PositiveInt = 1
    processes: PositiveInt | None = None
    exclusive: bool = False


class Partitions(Strict):
    """Slurm partitions of jobs without and with GPUs; None is Slurm's default."""

    cpu: str | None = None
    gpu: str | None = None


class Cluster(Strict):
    """Names and needs on one cluster."""

    account: str | None = None
    partitions: Partitions = Partitions()
    before_job: str | None = None
    container: str | None = None
    fetch_here: bool = True
    phases: dict[PhaseName, Phase]

    def resources(self, phase: PhaseName, attempt: int) -> dict[str, Any]:
        """Snakemake's resources for the given attempt (from 1): twice the memory each time."""
        needs = self.phases[phase]
        partition = self.partitions.gpu if needs.gpus else self.partitions.cpu
        processes = needs.processes or max(1, needs.gpus)
        resources = {
            "nodes": needs.nodes,
            "processes": processes if phase in SHARED else 1,
            "mem_mb": needs.memory * 2 ** (attempt - 1),
            "runtime": needs.minutes * attempt,
            "cpus_per_task": needs.cpus,
            "gpu": needs.gpus or None,
            "slurm_partition": partition,
            "slurm_account": self.account,
            "slurm_extra": "--exclusive" if needs.exclusive else None,
        }
        if needs.nodes > 1:
            # Of each node: `gpu` is a total. Slurm then starts no step of its own: the job does,
            # one torchrun a node.
            resources |= {"gpu": None, "gres": f"gpu:{needs.gpus}" if needs.gpus else None}
            resources |= {"mpi": "torchrun", "tasks": needs.nodes, "tasks_per_gpu": 0}
        return {name: value for name, value in resources.items() if value is not None}


def load_cluster(path: Path) -> Cluster:
    """Read a cluster's file; raises SettingsError with one line that says what is wrong in it."""
    try:
        cluster = Cluster.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"cannot read the cluster's file: {error.strerror}: {path}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} is not YAML: {reason_of(error)}") from None
    except ValidationError as error:
        raise SettingsError(f"{path}: {describe(error)}") from None
    if missing := set(PhaseName.__args__) - set(cluster.phases):
        raise SettingsError(f"{path}: phases lacks {', '.join(sorted(missing))}")
    for name, phase in cluster.phases.items():
        if name not in SHARED and (phase.nodes > 1 or (phase.processes or phase.gpus) > 1):
            raise SettingsError(f"{path}: phases.{name}: only {', '.join(SHARED)} can be shared")
        if 0 < phase.gpus < (phase.processes or 0):
            raise SettingsError(
                f"{path}: phases.{name}: more processes than gpus, of which each has one"
            )
    return cluster
