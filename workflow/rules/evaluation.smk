"""Decode in a fresh process, run the back, and time every codec."""

# All points of a frozen codec in one process, which computes the uncoded output once. One rule a
# codec, because the number of outputs is the codec's number of points.
for name in FROZEN:

    rule:
        name:
            f"evaluate_{name}"
        input:
            model="data/models/{model}",
            activations=store("evaluation"),
            references=store("evaluation", "final"),
            codecs=codecs_at_split([name]),
            bitstreams=bitstreams_at_split([name]),
        output:
            [
                f"{RESULTS}/evaluation/{{model}}/split{{split}}/{name}/{variant}.json"
                for variant in variants(name)
            ],
        log:
            log_of(f"evaluate/{{model}}/split{{split}}/{name}"),
        benchmark:
            benchmark_of(f"evaluate/{{model}}/split{{split}}/{name}")
        resources:
            **needs("evaluate"),
        params:
            args=evaluation_flags,
        message:
            f"evaluating {name} at split {{wildcards.split}}"
        shell:
            "splitcodec evaluate --model {input.model} --activations {input.activations}"
            " --references {input.references} {params.args} > {log} 2>&1"


# A model that learned with its codec is a large thing: one at a time.
rule evaluate:
    input:
        model="data/models/{model}",
        activations=store("evaluation"),
        references=store("evaluation", "final"),
        codecs=codec_files,
        bitstreams=bitstream_of,
    output:
        f"{RESULTS}/evaluation/{POINT}.json",
    log:
        log_of(f"evaluate/{POINT}"),
    benchmark:
        benchmark_of(f"evaluate/{POINT}")
    wildcard_constraints:
        codec=one_of(TUNED),
    resources:
        **needs("evaluate"),
    params:
        args=evaluation_flags,
    message:
        "evaluating {wildcards.codec} at split {wildcards.split}, {wildcards.variant}"
    shell:
        "splitcodec evaluate --model {input.model} --activations {input.activations}"
        " --references {input.references} {params.args} > {log} 2>&1"


# All baselines of a split in one process, which computes the uncoded output once.
rule evaluate_baselines:
    input:
        model="data/models/{model}",
        activations=store("evaluation"),
        references=store("evaluation", "final"),
        codecs=codecs_at_split(SETTINGS.baselines.codecs),
        bitstreams=bitstreams_at_split(SETTINGS.baselines.codecs),
    output:
        [
            f"{RESULTS}/evaluation/{{model}}/split{{split}}/{codec}/fixed.json"
            for codec in SETTINGS.baselines.codecs
        ],
    log:
        log_of("evaluate/{model}/split{split}/baselines"),
    benchmark:
        benchmark_of("evaluate/{model}/split{split}/baselines")
    resources:
        **needs("evaluate"),
    params:
        args=evaluation_flags,
    message:
        "evaluating the baselines at split {wildcards.split}"
    shell:
        "splitcodec evaluate --model {input.model} --activations {input.activations}"
        " --references {input.references} {params.args} > {log} 2>&1"


rule latency:
    input:
        activations=store("evaluation"),
        codecs=codecs_at_split(ALL_CODECS),
        model=original_model(ALL_CODECS),
    output:
        f"{RESULTS}/latency/{{model}}/split{{split}}.json",
    log:
        log_of("latency/{model}/split{split}"),
    benchmark:
        benchmark_of("latency/{model}/split{split}")
    threads: workflow.cores
    resources:
        **needs("latency"),
    params:
        args=lambda wildcards, input: flags(
            codec=folders(input.codecs),
            **SETTINGS.latency.model_dump(),
        ),
        model=with_model,
    message:
        "timing all codecs at split {wildcards.split}, alone on the machine"
    shell:
        "splitcodec latency --activations {input.activations} {params.args} {params.model}"
        " --out {output} > {log} 2>&1"


rule references:
    input:
        model="data/models/{model}",
        activations=store("evaluation", "final"),
        train_tokens=f"{RESULTS}/tokens/{{model}}/train.parquet",
        tokens=f"{RESULTS}/tokens/{{model}}/evaluation.parquet",
    output:
        f"{RESULTS}/references/{{model}}.json",
    log:
        log_of("references/{model}"),
    benchmark:
        benchmark_of("references/{model}")
    resources:
        **needs("evaluate"),
    params:
        args=lambda wildcards: flags(
            model_dtype=model_dtype(wildcards), **SETTINGS.evaluation.model_dump()
        ),
    message:
        "measuring the uncoded model and the cost of token ids"
    shell:
        "splitcodec references --model {input.model} --activations {input.activations}"
        " --train-tokens {input.train_tokens} --tokens {input.tokens} {params.args}"
        " --out {output} > {log} 2>&1"


# The rival of every split of an image model: the picture as a file, and all of the model there.
rule pictures:
    input:
        model="data/models/{model}",
        pixels=f"{RESULTS}/pixels/{{model}}/evaluation.parquet",
        references=store("evaluation", "final"),
    output:
        f"{RESULTS}/pictures/{{model}}.json",
    log:
        log_of("pictures/{model}"),
    benchmark:
        benchmark_of("pictures/{model}")
    wildcard_constraints:
        model=one_of(IMAGE_MODELS),
    resources:
        **needs("evaluate"),
    params:
        args=lambda wildcards: flags(
            model_dtype=model_dtype(wildcards),
            **SETTINGS.images.pictures.model_dump(),
            **SETTINGS.evaluation.model_dump(),
        ),
    message:
        "measuring pictures sent as files"
    shell:
        "splitcodec pictures --model {input.model} --pixels {input.pixels}"
        " --references {input.references} {params.args} --out {output} > {log} 2>&1"


# The model with the codec inside on every downstream task, all points of a codec in one process,
# which measures the plain model once.
for name in ALL_CODECS:

    rule:
        name:
            f"task_{name}"
        input:
            model="data/models/{model}",
            codecs=codecs_at_split([name]),
        output:
            [
                f"{RESULTS}/tasks/{{task}}/{{model}}/split{{split}}/{name}/{variant}.json"
                for variant in variants(name)
            ],
        log:
            log_of(f"task/{{task}}/{{model}}/split{{split}}/{name}"),
        benchmark:
            benchmark_of(f"task/{{task}}/{{model}}/split{{split}}/{name}")
        resources:
            **needs("evaluate"),
        params:
            task=lambda wildcards: flags(
                task=inline(TASKS[wildcards.task].model_dump(exclude_none=True))
            ),
            args=lambda wildcards, input, output: flags(
                codec=folders(input.codecs),
                out=list(output),
                model_dtype=model_dtype(wildcards),
                start_token=SETTINGS.text.start_token,
                **SETTINGS.evaluation.model_dump(),
            ),
        message:
            f"task {{wildcards.task}} with {name} at split {{wildcards.split}}"
        shell:
            "splitcodec task --model {input.model} {params.task} {params.args} > {log} 2>&1"
