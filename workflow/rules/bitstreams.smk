"""Encode the evaluation partition with every codec and coder."""


rule encode:
    input:
        codec=codec_files,
        activations=store("evaluation"),
        model=original_model([]),
    output:
        f"{RESULTS}/bitstreams/{POINT}/{{coder}}.rdc",
    log:
        log_of(f"encode/{POINT}/{{coder}}"),
    benchmark:
        benchmark_of(f"encode/{POINT}/{{coder}}")
    wildcard_constraints:
        codec=one_of(CODECS),
    resources:
        **needs("encode"),
    params:
        codec=codec_folder,
        model=with_model,
    message:
        "encoding {wildcards.codec} at split {wildcards.split}, {wildcards.variant}"
    shell:
        "splitcodec encode {input.activations} --codec {params.codec} --coder {wildcards.coder}"
        " {params.model} --out {output} > {log} 2>&1"


rule encode_baselines:
    input:
        codecs=codecs_at_split(SETTINGS.baselines.codecs),
        activations=store("evaluation"),
    output:
        [
            f"{RESULTS}/bitstreams/{{model}}/split{{split}}/{codec}/fixed/{coder}.rdc"
            for codec in SETTINGS.baselines.codecs
            for coder in coders(codec)
        ],
    log:
        log_of("encode/{model}/split{split}/baselines"),
    benchmark:
        benchmark_of("encode/{model}/split{split}/baselines")
    resources:
        **needs("encode"),
    params:
        args=lambda wildcards: flags(
            **dict(
                zip(
                    ("codec", "coder", "out"),
                    map(
                        list, zip(*bitstreams_of(SETTINGS.baselines.codecs, wildcards))
                    ),
                )
            )
        ),
    message:
        "encoding the baselines at split {wildcards.split}"
    shell:
        "splitcodec encode {input.activations} {params.args} > {log} 2>&1"
