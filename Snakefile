"""From text to a rate-distortion curve; `workflow/rules` has one file a phase."""

from snakemake.utils import min_version

min_version("9.0")


# A params file is the whole experiment: naming another one replaces the default, not adds to it.
if "experiment" not in config:

    configfile: "params/default.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"


container: CLUSTER.container or "docker://python:3.11-slim"


include: "workflow/rules/inputs.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/codecs.smk"
include: "workflow/rules/bitstreams.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/bounds.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report_page.output,
        rules.cards.output if CODECS else [],
        rules.track.output,


# The phases by name, as dvc.yaml calls them.
rule inputs:
    input:
        expand("data/models/{model}", model=MODELS),
        [inputs_of(model, partition) for model in MODELS for partition in PARTITIONS],


rule activations:
    input:
        every_split(f"{RESULTS}/sensitivity/{{model}}/split{{split}}.safetensors"),
        [extracted(model)[part] for model in MODELS for part in EXTRACTED],


rule codecs:
    input:
        CODEC_JSON,


rule bitstreams:
    input:
        [
            f"{RESULTS}/bitstreams/{POINT.format(**point)}/{coder}.rdc"
            for point in points(ALL_CODECS)
            for coder in coders(point["codec"])
        ],


rule evaluation:
    input:
        rules.collect.input.evaluation,
        rules.collect.input.latency,
        REFERENCES,
        PICTURES,


rule all_bounds:
    input:
        BOUNDS,
