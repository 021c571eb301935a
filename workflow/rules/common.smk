"""What all phases share: the settings, the places of artefacts, and settings as flags."""

import hashlib
import shlex

import yaml

from splitcodec.codecs.catalogue import coder_when_learned, is_baseline
from splitcodec.errors import SettingsError
from splitcodec.files import write_text
from splitcodec.settings import changes_front, load_settings

try:
    SETTINGS = load_settings(dict(config))
except SettingsError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{SETTINGS.experiment}"
MODELS = {model.name: model for model in SETTINGS.models}
CODECS = {codec.name: codec for codec in SETTINGS.codecs}
TUNED = [codec.name for codec in SETTINGS.codecs if codec.mode != "frozen"]
SHARED = [codec.name for codec in SETTINGS.codecs if codec.shared]
FROZEN = [codec.name for codec in SETTINGS.codecs if codec.mode == "frozen"]
COMPARING = [codec.name for codec in SETTINGS.codecs if codec.compares_outputs]
END_TO_END = [codec.name for codec in SETTINGS.codecs if changes_front(codec.mode)]
NEEDING_MODEL = END_TO_END + [
    codec.name
    for codec in SETTINGS.codecs
    if getattr(codec.hyperparameters, "tokens", False)
]
TASKS = {task.name: task for task in SETTINGS.tasks}
TEXT_MODELS = [name for name, model in MODELS.items() if model.reads == "text"]
IMAGE_MODELS = [name for name, model in MODELS.items() if model.reads == "images"]
PICTURED = (
    IMAGE_MODELS
    if SETTINGS.images and any(SETTINGS.images.pictures.model_dump().values())
    else []
)
TEXT = f"data/text/{SETTINGS.text.name}/documents.parquet" if SETTINGS.text else []
IMAGES = f"data/images/{SETTINGS.images.name}/images.parquet" if SETTINGS.images else []
PARTITIONS = ["train", "validation", "evaluation"]
SHARD = "shard{shard}"
SHARDS = {
    "tokens": SETTINGS.text.shards if SETTINGS.text else 1,
    "pixels": SETTINGS.images.shards if SETTINGS.images else 1,
}
WHOLE = {
    kind: PARTITIONS[1:] if count > 1 else PARTITIONS for kind, count in SHARDS.items()
}
CODEC_FILES = ["codec.safetensors", "codec.json", "training.jsonl"]


def one_of(names):
    """A wildcard constraint; never matches where there are no names."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    model=one_of(MODELS),
    split=r"\d+",
    task=one_of(TASKS),
    codec=one_of([*CODECS, *SETTINGS.baselines.codecs]),
    partition="train|validation|evaluation",
    shard=r"\d+",
    variant=r"fixed|shared-seed\d+|(lambda[^/]+-)?seed\d+",
    coder="ans|raw|deflate|zstd",


LONGEST = 50_000
"""Characters that `flags` puts on a command line, of which Linux takes 128 KiB."""


def flags(**options):
    """Options of a verb: a list repeats its flag, None leaves it out.

    What is too long for a command line goes to a file that its content names.
    """
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(flag)
            elif item is False:
                words.append(flag.replace("--", "--no-", 1))
            elif item is not None:
                words += [flag, str(item)]
    line = shlex.join(words)
    return line if len(line) <= LONGEST else f"--arguments {argument_file(words)}"


def argument_file(words):
    """A file with `words`, one a line."""
    text = "\n".join(words)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(".snakemake/arguments", f"{digest}.txt")
    if not path.exists():
        write_text(path, text)
    return path


def inline(value):
    """A value as one line of YAML, as the verbs take it."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**9)
        .strip()
        .removesuffix("\n...")
    )


def log_of(place):
    """Where a job's output goes."""
    return f"{RESULTS}/logs/{place}.log"


def benchmark_of(place):
    """Where a job's time and memory go."""
    return f"{RESULTS}/benchmarks/{place}.tsv"


def model_dtype(wildcards):
    return MODELS[wildcards.model].dtype


def inputs_of(model, partition="{partition}"):
    """What a model reads of a partition."""
    folder = "pixels" if model in IMAGE_MODELS else "tokens"
    return f"{RESULTS}/{folder}/{model}/{partition}.parquet"


def rules_of(partitions):
    """The rules of partitions, as the verbs take them."""
    return [
        inline({name: rule.model_dump(mode="json", exclude_none=True)})
        for name, rule in partitions.items()
    ]


def references_of(wildcards):
    """The reference rates of a model's inputs; of pictures there are none."""
    known = wildcards.model in TEXT_MODELS
    return f"{RESULTS}/references/{wildcards.model}.json" if known else []


def store(partition, split="split{split}"):
    """The activation store of a partition; split `final` is the uncoded final representation."""
    return f"{RESULTS}/activations/{{model}}/{split}/{partition}.parquet"


def shards_of(folder, count):
    """The training file's shards."""
    numbers = range(1, count + 1)
    return [f"{folder}/train.parquet".replace(SHARD, f"shard{n}") for n in numbers]


# What is extracted together, and whether with the final representation: the training text's serves
# codecs alone whose training compares outputs.
EXTRACTED = {"train": (["train"], bool(COMPARING)), "held_out": (PARTITIONS[1:], True)}


def extracted(model):
    """An activation store's place for each partition and split of a model, by what goes together."""
    return {
        part: [
            f"{RESULTS}/activations/{model}/{place}/{partition}.parquet"
            for partition in partitions
            for place in [
                *(f"split{k}" for k in MODELS[model].splits),
                *(["final"] if final else []),
            ]
        ]
        for part, (partitions, final) in EXTRACTED.items()
    }


def variants(codec):
    """The points of a codec: one for each λ and seed, or the only one of a baseline."""
    if is_baseline(codec):
        return ["fixed"]
    places = [f"lambda{weight:g}-" for weight in CODECS[codec].lambdas] or [""]
    seeds = CODECS[codec].seeds or SETTINGS.seeds
    return [f"{place}seed{seed}" for place in places for seed in seeds]


def coders(codec):
    """The coders of a codec: all for a baseline, and one for what has learned."""
    if is_baseline(codec):
        return SETTINGS.baselines.coders
    return [coder_when_learned(CODECS[codec].codec)]


def points(codecs, models=MODELS, splits=None):
    """All (model, split, codec, variant) of some codecs."""
    return [
        dict(model=model, split=split, codec=codec, variant=variant)
        for model in models
        for split in splits or MODELS[model].splits
        for codec in codecs
        for variant in variants(codec)
    ]


POINT = "{model}/split{split}/{codec}/{variant}"
ALL_CODECS = [*CODECS, *SETTINGS.baselines.codecs]
ALL_POINTS = [POINT.format(**point) for point in points(ALL_CODECS)]


def codec_files(wildcards):
    """The files that are the codec of a point, with the model's changes where it learned."""
    place = POINT.format(**wildcards)
    files = ["codec.json", "codec.safetensors"]
    files += ["model.safetensors"] if wildcards["codec"] in TUNED else []
    return [f"{RESULTS}/codecs/{place}/{file}" for file in files]


def original_model(codecs):
    """An input function: the model, if the front learned with one of `codecs`, or one of them
    sends token ids."""

    def path(wildcards):
        needed = any(codec in NEEDING_MODEL for codec in codecs)
        return f"data/models/{wildcards.model}" if needed else []

    return path


def with_model(wildcards, input):
    """Flags for the original model, where it is an input."""
    return (
        flags(model=input.model, model_dtype=model_dtype(wildcards))
        if input.model
        else ""
    )


def codecs_at_split(codecs):
    """An input function: the files of `codecs` at the wildcards' model and split."""

    def paths(wildcards):
        chosen = points(codecs, [wildcards.model], [wildcards.split])
        return [path for point in chosen for path in codec_files(point)]

    return paths


def folders(paths):
    """The folders of some files, each once."""
    return list(dict.fromkeys(str(Path(path).parent) for path in paths))


def every_split(pattern):
    """`pattern` for every model and split."""
    return [
        pattern.format(model=name, split=k)
        for name, model in MODELS.items()
        for k in model.splits
    ]


def recipe(wildcards):
    """The codec of a point as flags, or the one that is shared by all its points."""
    weight, seed = re.fullmatch(
        r"(?:lambda(.+)-|shared-)?seed(\d+)", wildcards.variant
    ).groups()
    settings = CODECS[wildcards.codec]
    options = {"codec": settings.codec, "name": settings.name, "mode": settings.mode}
    options |= {"lambda": settings.lambdas if settings.shared else weight, "seed": seed}
    tuning = settings.tuning.model_dump(exclude_unset=True)
    return flags(**options, set=assignments(settings.set), tune=assignments(tuning))


def assignments(values):
    """Values as KEY=VALUE, as the verbs take them."""
    return [f"{key}={inline(value)}" for key, value in values.items()]


def training_material(wildcards):
    """What a codec of a frozen model, or of one whose back learns, is trained on, by flag."""
    material = {
        "model": "data/models/{model}",
        "activations": store("train"),
        "validation": store("validation"),
        "validation_references": store("validation", "final"),
        "sensitivity": f"{RESULTS}/sensitivity/{{model}}/split{{split}}.safetensors",
    }
    if start := CODECS[wildcards.codec].start:
        place = POINT.replace("{codec}", start)
        material["start"] = [f"{RESULTS}/codecs/{place}/{file}" for file in CODEC_FILES]
    if wildcards.codec in COMPARING:
        material["references"] = store("train", "final")
    return material


def material_flags(wildcards, input):
    """What a codec is trained on, as flags."""
    start = {"start": folders(input.start)} if CODECS[wildcards.codec].start else {}
    return flags(**dict(input.items()) | start)


def tuning_material(wildcards):
    """What model and codec are trained on together, by flag."""
    material = training_material(wildcards)
    if wildcards.codec in END_TO_END:
        del material["sensitivity"]
        material["tokens"] = f"{RESULTS}/tokens/{{model}}/train.parquet"
    return material


def bitstreams_of(codecs, wildcards):
    """All (codec folder, coder, bitstream) of some codecs at the wildcards' model and split."""
    return [
        (
            f"{RESULTS}/codecs/{place}",
            coder,
            f"{RESULTS}/bitstreams/{place}/{coder}.rdc",
        )
        for point in points(codecs, [wildcards.model], [wildcards.split])
        for place in [POINT.format(**point)]
        for coder in coders(point["codec"])
    ]


def bitstreams_at_split(codecs):
    """An input function: the files of `codecs` at the wildcards' model and split."""
    return lambda wildcards: [path for *_, path in bitstreams_of(codecs, wildcards)]


def encoding_flags(codecs):
    """A parameter function: the folders, coders and files of `codecs`, as flags."""

    def args(wildcards):
        folder, coder, path = zip(*bitstreams_of(codecs, wildcards))
        return flags(codec=list(folder), coder=list(coder), out=list(path))

    return args


def evaluation_flags(wildcards, input, output):
    """What is evaluated and how, as flags."""
    return flags(
        codec=folders(input.codecs),
        bitstream=input.bitstreams,
        out=list(output),
        model_dtype=model_dtype(wildcards),
        **SETTINGS.evaluation.model_dump(),
    )


def bitstream_of(wildcards):
    """The file of a point."""
    (coder,) = coders(wildcards.codec)
    return f"{RESULTS}/bitstreams/{POINT}/{coder}.rdc"
