"""What all phases share: the settings, the places of artefacts, and settings as flags."""

import shlex

import yaml

from splitcodec.codecs.catalogue import is_baseline
from splitcodec.errors import SettingsError
from splitcodec.settings import load_settings

try:
    SETTINGS = load_settings(dict(config))
except SettingsError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{SETTINGS.experiment}"
MODELS = {model.name: model for model in SETTINGS.models}
CODECS = {codec.name: codec for codec in SETTINGS.codecs}
TEXT = f"data/text/{SETTINGS.text.name}/documents.parquet"
CODEC_FILES = ["codec.safetensors", "codec.json", "training.jsonl"]


wildcard_constraints:
    model="|".join(map(re.escape, MODELS)),
    split=r"\d+",
    codec="|".join(map(re.escape, [*CODECS, *SETTINGS.baselines.codecs])) or "none",
    partition="train|validation|evaluation",
    variant=r"fixed|lambda[^/]+-seed\d+",


def flags(**options):
    """Options of a verb: a list repeats its flag, None leaves it out."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(flag)
            elif item is False:
                words.append(flag.replace("--", "--no-", 1))
            elif item is not None:
                words += [flag, shlex.quote(str(item))]
    return " ".join(words)


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


def store(partition, split="split{split}"):
    """The activation store of a partition; split `final` is the uncoded final representation."""
    return f"{RESULTS}/activations/{{model}}/{split}/{partition}.parquet"


def variants(codec):
    """The points of a codec: one for each λ and seed, or the only one of a baseline."""
    if is_baseline(codec):
        return ["fixed"]
    return [
        f"lambda{weight:g}-seed{seed}"
        for weight in CODECS[codec].lambdas
        for seed in SETTINGS.seeds
    ]


def coders(codec):
    return SETTINGS.baselines.coders if is_baseline(codec) else ["ans"]


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


def codec_files(place):
    """The two files that are a codec."""
    return [
        f"{RESULTS}/codecs/{place}/{file}"
        for file in ("codec.json", "codec.safetensors")
    ]


def codecs_at_split(codecs):
    """An input function: the files of `codecs` at the wildcards' model and split."""

    def paths(wildcards):
        chosen = points(codecs, [wildcards.model], [wildcards.split])
        return [path for point in chosen for path in codec_files(POINT.format(**point))]

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
    """The codec of a point as flags."""
    weight, seed = wildcards.variant.removeprefix("lambda").split("-seed")
    settings = CODECS[wildcards.codec]
    options = {"codec": settings.codec, "name": settings.name}
    options |= {"lambda": weight, "seed": seed}
    changes = settings.set
    return flags(
        **options, set=[f"{key}={inline(value)}" for key, value in changes.items()]
    )


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


def codec_folder(wildcards, input):
    """The folder of the codec whose files are `input.codec`."""
    return folders(input.codec)[0]
