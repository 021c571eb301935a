"""One forward pass writes the representations at all splits; gradients tell what matters."""

# A rule for the training text of each model and one for the rest, because the number of outputs is the
# number of splits.
for name, settings in MODELS.items():
    for part, (partitions, final) in EXTRACTED.items():
        sharded = part == "train" and SETTINGS.activations.shards > 1
        kept = temp if sharded else str
        whole = f"{RESULTS}/activations/{name}"
        place = f"{whole}/{SHARD}" if sharded else whole
        suffix = f"-{SHARD}" if sharded else ""

        rule:
            name:
                f"extract_{part}_{name}"
            input:
                model=f"data/models/{name}",
                tokens=[inputs_of(name, partition) for partition in partitions],
            output:
                [kept(path.replace(whole, place)) for path in extracted(name)[part]],
            log:
                log_of(f"extract/{name}/{part}{suffix}"),
            benchmark:
                benchmark_of(f"extract/{name}/{part}{suffix}")
            threads: 2
            resources:
                **needs("extract"),
            params:
                args=flags(
                    tokens=[inputs_of(name, partition) for partition in partitions],
                    split=settings.splits,
                    final=final,
                    shard=(
                        f"{{shard}}/{SETTINGS.activations.shards}" if sharded else None
                    ),
                    out=place,
                    model_dtype=settings.dtype,
                    patch=settings.patch,
                    **SETTINGS.activations.model_dump(exclude={"shards"}),
                ),
            message:
                f"extracting {', '.join(partitions)}"
            shell:
                "splitcodec extract --model {input.model} {params.args} > {log} 2>&1"

    rule:
        name:
            f"sensitivity_{name}"
        input:
            model=f"data/models/{name}",
            activations=[
                store("train", f"split{k}").format(model=name) for k in settings.splits
            ],
        output:
            [
                f"{RESULTS}/sensitivity/{name}/split{k}.safetensors"
                for k in settings.splits
            ],
        log:
            log_of(f"sensitivity/{name}"),
        benchmark:
            benchmark_of(f"sensitivity/{name}")
        threads: 2
        resources:
            **needs("sensitivity"),
        params:
            args=lambda wildcards, input, name=name: flags(
                activations=input.activations,
                out=f"{RESULTS}/sensitivity/{name}",
                model_dtype=MODELS[name].dtype,
                **SETTINGS.sensitivity.model_dump(),
            ),
        message:
            "measuring sensitivity"
        shell:
            "splitcodec sensitivity --model {input.model} {params.args} > {log} 2>&1"


if SETTINGS.activations.shards > 1:

    rule join_activations:
        input:
            shards_of(
                f"{RESULTS}/activations/{{model}}/{SHARD}/{{place}}",
                SETTINGS.activations.shards,
            ),
        output:
            store("train", "{place}"),
        log:
            log_of("extract/{model}/join/{place}"),
        benchmark:
            benchmark_of("extract/{model}/join/{place}")
        wildcard_constraints:
            place=r"split\d+|final",
        resources:
            **needs("tokenise"),
        message:
            "joining the activations of {wildcards.model} at {wildcards.place}"
        shell:
            "splitcodec join {input} --out {output} > {log} 2>&1"
