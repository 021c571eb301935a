"""Bounds of every split: of the training representations, and of the codecs with a transform."""

# Codecs with a transform of the representation that is stored, which a changed front does not make.
TRANSFORMS = [
    name
    for name, codec in CODECS.items()
    if name not in END_TO_END and not is_baseline(codec.codec)
]


rule bounds:
    input:
        activations=store("train"),
        evaluation=store("evaluation"),
        sensitivity=f"{RESULTS}/sensitivity/{{model}}/split{{split}}.safetensors",
        references=references_of,
        codecs=codecs_at_split(TRANSFORMS),
    output:
        f"{RESULTS}/bounds/{{model}}/split{{split}}.json",
    log:
        log_of("bounds/{model}/split{split}"),
    benchmark:
        benchmark_of("bounds/{model}/split{split}")
    resources:
        **needs("bounds"),
    params:
        args=lambda wildcards, input: flags(
            codec=folders(input.codecs),
            references=input.references or None,
            **SETTINGS.bounds.model_dump(),
        ),
    message:
        "estimating bounds at split {wildcards.split}"
    shell:
        "splitcodec bounds --activations {input.activations} --evaluation {input.evaluation}"
        " --sensitivity {input.sensitivity} {params.args}"
        " --out {output} > {log} 2>&1"
