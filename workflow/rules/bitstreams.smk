"""Encode the evaluation partition with every codec and coder."""


def encoding_flags(codecs):
    """A parameter function: the folders, coders and files of `codecs`, as flags."""

    def args(wildcards):
        folder, coder, path = zip(*bitstreams_of(codecs, wildcards))
        return flags(codec=list(folder), coder=list(coder), out=list(path))

    return args


# All points of a frozen codec in one process: most take less time than its start. One rule a codec,
# because the number of outputs is the codec's number of points.
for name in FROZEN:

    rule:
        name:
            f"encode_{name}"
        input:
            codecs=codecs_at_split([name]),
            activations=store("evaluation"),
            model=original_model([name]),
        output:
            [
                f"{RESULTS}/bitstreams/{{model}}/split{{split}}/{name}/{variant}/{coder}.rdc"
                for variant in variants(name)
                for coder in coders(name)
            ],
        log:
            log_of(f"encode/{{model}}/split{{split}}/{name}"),
        benchmark:
            benchmark_of(f"encode/{{model}}/split{{split}}/{name}")
        resources:
            **needs("encode"),
        params:
            args=encoding_flags([name]),
            model=with_model,
        message:
            f"encoding {name} at split {{wildcards.split}}"
        shell:
            "splitcodec encode {input.activations} {params.args} {params.model} > {log} 2>&1"


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
        codec=one_of(TUNED),
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
        args=encoding_flags(SETTINGS.baselines.codecs),
    message:
        "encoding the baselines at split {wildcards.split}"
    shell:
        "splitcodec encode {input.activations} {params.args} > {log} 2>&1"
