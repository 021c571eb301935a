"""The table of points, the figures, the report page and the MLflow runs."""

POINTS = f"{RESULTS}/points.parquet"
CODEC_JSON = [f"{RESULTS}/codecs/{point}/codec.json" for point in ALL_POINTS]
REFERENCES = expand(f"{RESULTS}/references/{{model}}.json", model=TEXT_MODELS)
PICTURES = expand(f"{RESULTS}/pictures/{{model}}.json", model=PICTURED)
BOUNDS = every_split(f"{RESULTS}/bounds/{{model}}/split{{split}}.json")
RD_FIGURES = every_split(f"{RESULTS}/figures/rd-{{model}}-split{{split}}")
RATE_FIGURES = expand(f"{RESULTS}/figures/rate-by-split-{{model}}", model=MODELS)
BOUNDS_FIGURES = expand(f"{RESULTS}/figures/bounds-{{model}}", model=MODELS)
TIME_FIGURES = expand(f"{RESULTS}/figures/time-{{model}}", model=MODELS)

EVALUATIONS = [f"{RESULTS}/evaluation/{point}.json" for point in ALL_POINTS]

# A page needs few examples of text: of the first and the last codec, at the last split and a middle λ.
EXAMPLES = {
    name: [
        (settings.splits[-1], f"{codec}/{variants(codec)[len(variants(codec)) // 2]}")
        for codec in dict.fromkeys([*TRANSFORMS[:1], *TRANSFORMS[-1:]])
    ]
    for name, settings in MODELS.items()
    if name in TEXT_MODELS
}


rule collect:
    input:
        evaluation=EVALUATIONS,
        codec=CODEC_JSON,
        latency=every_split(f"{RESULTS}/latency/{{model}}/split{{split}}.json"),
        task=[
            f"{RESULTS}/tasks/{task}/{point}.json"
            for task in TASKS
            for point in ALL_POINTS
        ],
    output:
        csv=report(f"{RESULTS}/points.csv", "../report/points.rst", category="Points"),
        parquet=POINTS,
        metrics=f"{RESULTS}/metrics.json",
    log:
        log_of("collect"),
    resources:
        **needs("report"),
    params:
        args=lambda wildcards, input: flags(
            experiment=SETTINGS.experiment,
            evaluation=list(input.evaluation),
            codec=list(input.codec),
            latency=list(input.latency),
            task=list(input.task),
        ),
    message:
        "collecting the points"
    shell:
        "splitcodec collect {params.args} --git-commit $(git describe --always --dirty --abbrev=12"
        " --exclude='*' 2> /dev/null || echo unknown)"
        " --csv {output.csv} --parquet {output.parquet}"
        " --metrics {output.metrics} > {log} 2>&1"


rule figures:
    input:
        points=POINTS,
        references=REFERENCES,
        pictures=PICTURES,
        bounds=BOUNDS,
    output:
        [
            report(f"{f}.svg", "../report/rd.rst", category="Rate-distortion")
            for f in RD_FIGURES
        ],
        [
            report(f"{f}.svg", "../report/rate_by_split.rst", category="Splits")
            for f in RATE_FIGURES
        ],
        [
            report(f"{f}.svg", "../report/bounds.rst", category="Bounds")
            for f in BOUNDS_FIGURES
        ],
        [
            report(f"{f}.svg", "../report/time.rst", category="Time")
            for f in TIME_FIGURES
        ],
        png=[
            f"{f}.png"
            for f in [*RD_FIGURES, *RATE_FIGURES, *BOUNDS_FIGURES, *TIME_FIGURES]
        ],
    log:
        log_of("figures"),
    resources:
        **needs("report"),
    params:
        args=lambda wildcards, input: flags(
            references=list(input.references),
            pictures=list(input.pictures),
            bounds=list(input.bounds),
            out=f"{RESULTS}/figures",
        ),
    message:
        "drawing the figures"
    shell:
        "splitcodec figures --points {input.points} {params.args} > {log} 2>&1"


# One rule a model, because its last split is its own.
for name, chosen in EXAMPLES.items() if TRANSFORMS else ():

    rule:
        name:
            f"examples_{name}"
        input:
            model=f"data/models/{name}",
            activations=store("evaluation", f"split{chosen[0][0]}").format(model=name),
            codecs=[
                f"{RESULTS}/codecs/{name}/split{k}/{codec}/{file}"
                for k, codec in chosen
                for file in ("codec.json", "codec.safetensors")
            ],
        output:
            [f"{RESULTS}/examples/{name}/split{k}/{codec}.json" for k, codec in chosen],
        log:
            log_of(f"examples/{name}"),
        benchmark:
            benchmark_of(f"examples/{name}")
        resources:
            **needs("evaluate"),
        params:
            args=lambda wildcards, input, output, name=name: flags(
                codec=folders(input.codecs),
                out=list(output),
                model_dtype=MODELS[name].dtype,
            ),
        message:
            "looking where the bits go"
        shell:
            "splitcodec examples --model {input.model} --activations {input.activations}"
            " {params.args} > {log} 2>&1"


rule cards:
    input:
        points=POINTS,
        codec=[
            f"{RESULTS}/codecs/{POINT.format(**p)}/codec.json" for p in points(CODECS)
        ],
    output:
        [
            f"{RESULTS}/cards/{POINT.format(**point)}/card.{suffix}"
            for point in points(CODECS)
            for suffix in ("md", "json")
        ],
    log:
        log_of("cards"),
    resources:
        **needs("report"),
    params:
        args=lambda wildcards, input: flags(
            codec=list(input.codec), out=f"{RESULTS}/cards"
        ),
    message:
        "writing the codecs' cards"
    shell:
        "splitcodec cards --points {input.points} {params.args} > {log} 2>&1"


rule report_page:
    input:
        points=POINTS,
        references=REFERENCES,
        pictures=PICTURES,
        bounds=BOUNDS,
        codec=CODEC_JSON,
        evaluation=EVALUATIONS,
        examples=[
            f"{RESULTS}/examples/{name}/split{k}/{codec}.json"
            for name, chosen in EXAMPLES.items()
            for k, codec in chosen
        ],
        figures=rules.figures.output,
    output:
        f"{RESULTS}/report.html",
    log:
        log_of("report"),
    resources:
        **needs("report"),
    params:
        args=lambda wildcards, input: flags(
            figure=list(input.figures),
            references=list(input.references),
            pictures=list(input.pictures),
            bounds=list(input.bounds),
            codec=list(input.codec),
            evaluation=list(input.evaluation),
            example=list(input.examples),
        ),
    message:
        "writing the report"
    shell:
        "splitcodec report --points {input.points} {params.args} --out {output} > {log} 2>&1"


# If MLflow is down the experiment is still done: `splitcodec track sync` sends it later.
rule track:
    input:
        points=POINTS,
        figures=rules.figures.output,
        training=[f"{RESULTS}/codecs/{point}/training.jsonl" for point in ALL_POINTS],
    output:
        update(f"{RESULTS}/mlflow-runs.json"),
    log:
        log_of("track"),
    resources:
        **needs("report"),
    params:
        results=lambda wildcards, input: Path(input.points).parent,
    message:
        "sending the points to MLflow"
    shell:
        "splitcodec track sync {params.results} --later > {log} 2>&1"
