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
        [
            f"{RESULTS}/codecs/{point}/{file}"
            for point in ALL_POINTS
            for file in CODEC_FILES
        ],


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


# All that is a result. What it was made from (tokens, representations, sensitivity) may be deleted
# for its size, and is made again when something needs it.
rule all:
    default_target: True
    input:
        rules.codecs.input,
        rules.bitstreams.input,
        rules.evaluation.input,
        rules.all_bounds.input,
        rules.collect.output,
        rules.figures.output,
        rules.cards.output if CODECS else [],
        rules.report_page.output,
        rules.track.output,
