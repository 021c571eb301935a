"""Fit every codec: one job for each model, split, codec, λ and seed."""


def recipe(wildcards):
    """The codec of a point as flags."""
    if is_baseline(wildcards.codec):
        return flags(codec=wildcards.codec)
    weight, seed = wildcards.variant.removeprefix("lambda").split("-seed")
    changes = CODECS[wildcards.codec].set
    options = {"codec": wildcards.codec, "lambda": weight, "seed": seed}
    return flags(
        **options, set=[f"{key}={inline(value)}" for key, value in changes.items()]
    )


rule train_codec:
    input:
        model="data/models/{model}",
        activations=store("train"),
        references=store("train", "final"),
        sensitivity=f"{RESULTS}/sensitivity/{{model}}/split{{split}}.safetensors",
    output:
        [f"{RESULTS}/codecs/{POINT}/{file}" for file in CODEC_FILES],
    log:
        log_of(f"train_codec/{POINT}"),
    benchmark:
        benchmark_of(f"train_codec/{POINT}")
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
        " --sensitivity {input.sensitivity} --checkpoint {params.checkpoint}"
        " --out {params.out} > {log} 2>&1"
