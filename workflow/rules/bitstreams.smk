"""Encode the evaluation partition with every codec and coder."""

ENCODED = {name: [name] for name in CODECS} | {"baselines": SETTINGS.baselines.codecs}

# All points of a codec in one process, and so all baselines: most take less time than its start. One
# rule each, because the number of outputs is the number of points.
for name, codecs in ENCODED.items():
    if not codecs:
        continue

    rule:
        name:
            f"encode_{name}"
        input:
            codecs=codecs_at_split(codecs),
            activations=store("evaluation"),
            model=original_model(codecs),
        output:
            [
                f"{RESULTS}/bitstreams/{{model}}/split{{split}}/{codec}/{variant}/{coder}.rdc"
                for codec in codecs
                for variant in variants(codec)
                for coder in coders(codec)
            ],
        log:
            log_of(f"encode/{{model}}/split{{split}}/{name}"),
        benchmark:
            benchmark_of(f"encode/{{model}}/split{{split}}/{name}")
        resources:
            **needs("encode"),
        params:
            args=encoding_flags(codecs),
            model=with_model,
        message:
            f"encoding {name} at split {{wildcards.split}}"
        shell:
            "splitcodec encode {input.activations} {params.args} {params.model} > {log} 2>&1"
