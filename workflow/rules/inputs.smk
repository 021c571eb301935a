"""Fetch or make the model, fetch text and pictures, and make of them what the model reads."""

TRAINED = [name for name, model in MODELS.items() if model.source.kind == "trained"]
RULES = rules_of(SETTINGS.text.partitions) if SETTINGS.text else []


rule fetch_model:
    output:
        directory("data/models/{model}"),
    log:
        log_of("fetch_model/{model}"),
    benchmark:
        benchmark_of("fetch_model/{model}")
    wildcard_constraints:
        model=one_of([name for name in MODELS if name not in TRAINED]),
    resources:
        **needs("fetch"),
    params:
        source=lambda wildcards: flags(**MODELS[wildcards.model].source.model_dump()),
    message:
        "fetching model {wildcards.model}"
    shell:
        "splitcodec fetch-model {params.source} --out {output} > {log} 2>&1"


rule pretrain:
    input:
        TEXT,
    output:
        directory("data/models/{model}"),
    log:
        log_of("pretrain/{model}"),
    benchmark:
        benchmark_of("pretrain/{model}")
    wildcard_constraints:
        model=one_of(TRAINED),
    threads: 2
    resources:
        **needs("pretrain"),
    params:
        source=lambda wildcards: flags(
            rule=RULES,
            set=assignments(
                MODELS[wildcards.model].source.model_dump(exclude={"kind"})
            ),
        ),
        checkpoint=f"{RESULTS}/checkpoints/{{model}}.pt",
    message:
        "pretraining {wildcards.model}"
    shell:
        "splitcodec pretrain --documents {input} {params.source}"
        " --checkpoint {params.checkpoint} --out {output} > {log} 2>&1"


if SETTINGS.text:

    rule fetch_text:
        output:
            TEXT,
        log:
            log_of("fetch_text"),
        benchmark:
            benchmark_of("fetch_text")
        resources:
            **needs("fetch"),
        params:
            source=flags(
                separator=SETTINGS.text.separator, **SETTINGS.text.source.model_dump()
            ),
        message:
            "fetching the text"
        shell:
            "splitcodec fetch-text {params.source} --out {output} > {log} 2>&1"

    rule tokenise:
        input:
            documents=TEXT,
            model="data/models/{model}",
        output:
            [
                f"{RESULTS}/tokens/{{model}}/{partition}.parquet"
                for partition in WHOLE["tokens"]
            ],
        log:
            log_of("tokenise/{model}"),
        benchmark:
            benchmark_of("tokenise/{model}")
        wildcard_constraints:
            model=one_of(TEXT_MODELS),
        resources:
            **needs("tokenise"),
        params:
            rules=flags(
                rule=RULES,
                sequence_length=SETTINGS.text.sequence_length,
                start_token=SETTINGS.text.start_token,
            ),
            part=flags(partition=WHOLE["tokens"]),
            out=f"{RESULTS}/tokens/{{model}}",
        message:
            "tokenising for {wildcards.model}"
        shell:
            "splitcodec tokenise --documents {input.documents} --model {input.model}"
            " {params.rules} {params.part} --out {params.out} > {log} 2>&1"

    if SHARDS["tokens"] > 1:

        use rule tokenise as tokenise_shard with:
            output:
                temp(f"{RESULTS}/tokens/{{model}}/{SHARD}/train.parquet"),
            log:
                log_of("tokenise/{model}/shard{shard}"),
            benchmark:
                benchmark_of("tokenise/{model}/shard{shard}")
            params:
                rules=rules.tokenise.params.rules,
                part=f"--partition train --shard {{shard}}/{SHARDS['tokens']}",
                out=f"{RESULTS}/tokens/{{model}}/{SHARD}",
            message:
                "tokenising shard {wildcards.shard} for {wildcards.model}"


if SETTINGS.images:

    rule fetch_images:
        output:
            IMAGES,
        log:
            log_of("fetch_images"),
        benchmark:
            benchmark_of("fetch_images")
        resources:
            **needs("fetch"),
        params:
            source=flags(
                source=[
                    inline(source.model_dump(mode="json", exclude_none=True))
                    for source in SETTINGS.images.sources
                ]
            ),
        message:
            "fetching the pictures"
        shell:
            "splitcodec fetch-images {params.source} --out {output} > {log} 2>&1"

    rule prepare:
        input:
            images=IMAGES,
            model="data/models/{model}",
        output:
            [
                f"{RESULTS}/pixels/{{model}}/{partition}.parquet"
                for partition in WHOLE["pixels"]
            ],
        log:
            log_of("prepare/{model}"),
        benchmark:
            benchmark_of("prepare/{model}")
        wildcard_constraints:
            model=one_of(IMAGE_MODELS),
        resources:
            **needs("tokenise"),
        params:
            rules=flags(rule=rules_of(SETTINGS.images.partitions)),
            part=flags(partition=WHOLE["pixels"]),
            out=f"{RESULTS}/pixels/{{model}}",
        message:
            "preparing pictures for {wildcards.model}"
        shell:
            "splitcodec prepare --images {input.images} --model {input.model}"
            " {params.rules} {params.part} --out {params.out} > {log} 2>&1"

    if SHARDS["pixels"] > 1:

        use rule prepare as prepare_shard with:
            output:
                temp(f"{RESULTS}/pixels/{{model}}/{SHARD}/train.parquet"),
            log:
                log_of("prepare/{model}/shard{shard}"),
            benchmark:
                benchmark_of("prepare/{model}/shard{shard}")
            params:
                rules=rules.prepare.params.rules,
                part=f"--partition train --shard {{shard}}/{SHARDS['pixels']}",
                out=f"{RESULTS}/pixels/{{model}}/{SHARD}",
            message:
                "preparing shard {wildcards.shard} of the pictures for {wildcards.model}"


for kind, verb in {"tokens": "tokenise", "pixels": "prepare"}.items():
    if SHARDS[kind] > 1:

        rule:
            name:
                f"join_{kind}"
            input:
                shards_of(f"{RESULTS}/{kind}/{{model}}/{SHARD}", SHARDS[kind]),
            output:
                f"{RESULTS}/{kind}/{{model}}/train.parquet",
            log:
                log_of(f"{verb}/{{model}}/join"),
            benchmark:
                benchmark_of(f"{verb}/{{model}}/join")
            resources:
                **needs("tokenise"),
            message:
                f"joining the {kind} of {{wildcards.model}}"
            shell:
                "splitcodec join {input} --out {output} > {log} 2>&1"
