"""Train every codec: one job for each model, split, codec, λ and seed, or for all λ at once."""

SHARED_POINT = "{model}/split{split}/{codec}/shared-seed{seed}"


rule train_codec:
    input:
        unpack(training_material),
    output:
        [f"{RESULTS}/codecs/{POINT}/{file}" for file in CODEC_FILES],
    log:
        log_of(f"train_codec/{POINT}"),
    benchmark:
        benchmark_of(f"train_codec/{POINT}")
    wildcard_constraints:
        codec=one_of([codec for codec in CODECS if codec not in [*TUNED, *SHARED]]),
    resources:
        **needs("train"),
    params:
        recipe=recipe,
        material=material_flags,
        dtype=model_dtype,
        out=f"{RESULTS}/codecs/{POINT}",
        # Snakemake deletes outputs before a rerun; what training resumes from lies elsewhere.
        checkpoint=f"{RESULTS}/checkpoints/{POINT}.pt",
    message:
        "training {wildcards.codec} at split {wildcards.split}, {wildcards.variant}"
    shell:
        "splitcodec launch {resources.nodes} {resources.processes}"
        " splitcodec train {params.recipe} {params.material} --model-dtype {params.dtype}"
        f" --results {RESULTS}"
        " --checkpoint {params.checkpoint} --out {params.out} > {log} 2>&1"


use rule train_codec as tune_model with:
    input:
        unpack(tuning_material),
    output:
        [
            f"{RESULTS}/codecs/{POINT}/{file}"
            for file in [*CODEC_FILES, "model.safetensors"]
        ],
    log:
        log_of(f"tune_model/{POINT}"),
    benchmark:
        benchmark_of(f"tune_model/{POINT}")
    wildcard_constraints:
        codec=one_of(TUNED),
    resources:
        **needs("tune"),
    message:
        "training the model with {wildcards.codec} at split {wildcards.split},"
        " {wildcards.variant}"


use rule train_codec as train_shared_codec with:
    wildcard_constraints:
        codec=one_of(SHARED),
        variant=r"shared-seed\d+",
    message:
        "training {wildcards.codec} at split {wildcards.split} for all λ"


rule set_rate:
    input:
        [f"{RESULTS}/codecs/{SHARED_POINT}/{file}" for file in CODEC_FILES],
    output:
        [
            f"{RESULTS}/codecs/{SHARED_POINT}/{file}".replace(
                "shared-", "lambda{weight}-"
            )
            for file in CODEC_FILES
        ],
    log:
        log_of("set_rate/{model}/split{split}/{codec}/lambda{weight}-seed{seed}"),
    wildcard_constraints:
        codec=one_of(SHARED),
    resources:
        **needs("baselines"),
    params:
        codec=lambda wildcards, input: folders(input)[0],
        out=lambda wildcards, output: folders(output)[0],
    message:
        "{wildcards.codec} at split {wildcards.split} at λ {wildcards.weight}"
    shell:
        "splitcodec set-rate --codec {params.codec} --lambda {wildcards.weight}"
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
    resources:
        **needs("baselines"),
    params:
        args=flags(codec=SETTINGS.baselines.codecs),
        out=f"{RESULTS}/codecs/{{model}}/split{{split}}",
    message:
        "writing the baselines at split {wildcards.split}"
    shell:
        "splitcodec baselines --activations {input} {params.args} --out {params.out}"
        " > {log} 2>&1"
