"""One forward pass writes the representations at all splits; gradients tell what matters."""

# One rule a model and partition, because the number of outputs is the number of what is stored.
for name, settings in MODELS.items():
    for partition in PARTITIONS:

        rule:
            name:
                f"extract_{partition}_{name}"
            input:
                model=f"data/models/{name}",
                tokens=inputs_of(name, partition),
            output:
                [
                    f"{RESULTS}/activations/{name}/{place}/{partition}.parquet"
                    for place in extracted(partition, settings.splits)
                ],
            log:
                log_of(f"extract/{name}/{partition}"),
            benchmark:
                benchmark_of(f"extract/{name}/{partition}")
            threads: 2
            resources:
                **needs("extract"),
            params:
                args=flags(
                    split=settings.splits,
                    final="final" in extracted(partition, settings.splits),
                    out=f"{RESULTS}/activations/{name}",
                    model_dtype=settings.dtype,
                    patch=settings.patch,
                    **SETTINGS.activations.model_dump(),
                ),
            message:
                f"extracting {partition}"
            shell:
                "splitcodec extract --model {input.model} --tokens {input.tokens} {params.args}"
                " > {log} 2>&1"

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
