"""What jobs ask of a cluster: `workflow/profiles/slurm/cluster.yaml` as resources of rules."""

import os

from splitcodec.cluster import load_cluster

try:
    CLUSTER = load_cluster(
        Path(
            os.environ.get("SPLITCODEC_CLUSTER")
            or Path(workflow.basedir, "workflow/profiles/slurm/cluster.yaml")
        )
    )
except SettingsError as error:
    raise WorkflowError(str(error)) from None

if CLUSTER.before_job:
    # Its braces are the shell's, not Snakemake's.
    shell.prefix(CLUSTER.before_job.replace("{", "{{").replace("}", "}}") + "\n")


def needs(phase):
    """The resources of a rule: those of `phase`, which grow with the attempt."""

    def at_attempt(name):
        return lambda wildcards, attempt: CLUSTER.resources(phase, attempt)[name]

    return {name: at_attempt(name) for name in CLUSTER.resources(phase, 1)}


if CLUSTER.fetch_here:

    localrules:
        fetch_model,


if CLUSTER.fetch_here and SETTINGS.text:

    localrules:
        fetch_text,


if CLUSTER.fetch_here and SETTINGS.images:

    localrules:
        fetch_images,


localrules:
    all,
    inputs,
    activations,
    codecs,
    bitstreams,
    evaluation,
    all_bounds,
