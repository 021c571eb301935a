"""Encode the evaluation partition with every codec and coder."""


rule encode:
    input:
        codec=[f"{RESULTS}/codecs/{POINT}/{file}" for file in CODEC_FILES],
        activations=store("evaluation"),
    output:
        f"{RESULTS}/bitstreams/{POINT}/{{coder}}.rdc",
    log:
        log_of(f"encode/{POINT}/{{coder}}"),
    benchmark:
        benchmark_of(f"encode/{POINT}/{{coder}}")
    params:
        codec=f"{RESULTS}/codecs/{POINT}",
    message:
        "encoding {wildcards.codec} ({wildcards.coder}) at split {wildcards.split}"
    shell:
        "splitcodec encode --codec {params.codec} --coder {wildcards.coder}"
        " --activations {input.activations} --out {output} > {log} 2>&1"
