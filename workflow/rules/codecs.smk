"""Fit every codec: one job for each model, split, codec, λ and seed."""


rule train_codec:
    input:
        model="data/models/{model}",
        activations=store("train"),
        references=store("train", "final"),
        validation=store("validation"),
        validation_references=store("validation", "final"),
        sensitivity=f"{RESULTS}/sensitivity/{{model}}/split{{split}}.safetensors",
    output:
        [f"{RESULTS}/codecs/{POINT}/{file}" for file in CODEC_FILES],
    log:
        log_of(f"train_codec/{POINT}"),
    benchmark:
        benchmark_of(f"train_codec/{POINT}")
    wildcard_constraints:
        variant="lambda.+",
    params:
        recipe=recipe,
        dtype=model_dtype,
        out=f"{RESULTS}/codecs/{POINT}",
        # Snakemake deletes outputs before a rerun; what training resumes from lies elsewhere.
        checkpoint=f"{RESULTS}/checkpoints/{POINT}.pt",
    message:
        "training {wildcards.codec} at split {wildcards.split}, {wildcards.variant}"
    shell:
        "splitcodec train {params.recipe} --model {input.model} --model-dtype {params.dtype}"
        " --activations {input.activations} --references {input.references}"
        " --validation {input.validation} --validation-references {input.validation_references}"
        " --sensitivity {input.sensitivity} --checkpoint {params.checkpoint}"
        " --out {params.out} > {log} 2>&1"


# All baselines of a split in one process: they need no training, only a folder each.
rule baselines:
    input:
        store("train"),
    output:
        [
            f"{RESULTS}/codecs/{{model}}/split{{split}}/{codec}/fixed/{file}"
            for codec in SETTINGS.baselines.codecs
            for file in CODEC_FILES
        ],
    log:
        log_of("baselines/{model}/split{split}"),
    benchmark:
        benchmark_of("baselines/{model}/split{split}")
    params:
        args=flags(codec=SETTINGS.baselines.codecs),
        out=f"{RESULTS}/codecs/{{model}}/split{{split}}",
    message:
        "writing the baselines at split {wildcards.split}"
    shell:
        "splitcodec baselines --activations {input} {params.args} --out {params.out}"
        " > {log} 2>&1"
