"""What the verbs share: options, and how their values are read."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from splitcodec.errors import InputError, SettingsError, reason_of
from splitcodec.settings import Partition, describe
from splitcodec.settings.base import LARGEST_SEED

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Rate-distortion optimised split inference of transformers.",
    epilog="Instead of arguments too long for a command line: --arguments FILE, one a line.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Out = Annotated[Path, typer.Option(help="file to write")]
Files = Annotated[list[Path], typer.Option()]
ModelDirectory = Annotated[Path, typer.Option("--model", help="directory made by fetch-model")]
CodecDirectory = Annotated[Path, typer.Option("--codec", help="directory made by train")]
OriginalModel = Annotated[
    Path | None,
    typer.Option(
        "--model", help="model directory, if a codec sends token ids or learned with the front"
    ),
]
Store = Annotated[Path, typer.Option(help="activation store")]
Resamples = Annotated[int, typer.Option(min=1, help="bootstrap resamples")]
BatchSequences = Annotated[int, typer.Option(min=1, help="sequences a forward pass")]
ShardOption = Annotated[
    str | None, typer.Option(help="3/8: the third of eight parts, which `splitcodec join` joins")
]
Rules = Annotated[
    list[str], typer.Option(help="'train: {between: [1790, 1989], sequences: 128}', one each")
]


class Dtype(StrEnum):
    """Floating-point formats."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


SeedOption = Annotated[int, typer.Option(min=0, max=LARGEST_SEED)]
DtypeOption = Annotated[Dtype, typer.Option(help="in which the model runs")]


def load_model(directory: Path, dtype: Dtype, *meanings: dict[str, Any]) -> Any:
    """The model, if it is the one that the artefacts of these meanings were made with."""
    from splitcodec.devices import device
    from splitcodec.inputs.models import verified_identity
    from splitcodec.splitting.loading import load_split_model

    patch = next((meaning["patch"] for meaning in meanings if "patch" in meaning), 1)
    own = verified_identity(directory)["model_hash"]
    if any(meaning.get("model_hash") != own for meaning in meanings):
        raise InputError(f"{directory} is not the model that the given files were made with")
    return load_split_model(directory, dtype.value, str(device()), patch)


def check_outs(codec: list[Path], out: list[Path]) -> None:
    """Raise SettingsError unless there is a file for each codec."""
    if len(codec) != len(out):
        raise SettingsError(f"{len(codec)} --codec but {len(out)} --out; give one --out for each")


def increase(text: str) -> float:
    """+2% as 0.02."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not text.endswith("%") or not value > 0:
        raise SettingsError(f"--target-perplexity {text!r} is no increase such as +2%")
    return value


def validated(wanted: Any, given: dict[str, Any]) -> Any:
    """`given` without its Nones as the type `wanted`; SettingsError names what is wrong."""
    if not isinstance(given, dict):
        raise SettingsError(f"{given!r} is no mapping such as {{kind: files, path: x}}")
    values = {key: value for key, value in given.items() if value is not None}
    try:
        return TypeAdapter(wanted).validate_python(values)
    except ValidationError as error:
        raise SettingsError(describe(error)) from None


def read_rules(rules: list[str]) -> dict[str, Partition]:
    """The rules of partitions, by name."""
    found: dict[str, Partition] = {}
    for text in rules:
        found |= validated(dict[str, Partition], parse_yaml(text))
    return found


def without(rules: dict[str, Partition], name: str) -> dict[str, Partition]:
    """The rules of the other partitions."""
    return {other: rule for other, rule in rules.items() if other != name}


def assignments(pairs: list[str]) -> dict[str, Any]:
    """What KEY=VALUE pairs say, the values in YAML."""
    parts = (item.partition("=") for item in pairs)
    return {key: parse_yaml(value) for key, _, value in parts}


def parse_yaml(text: str) -> Any:
    """The value that `text` writes in YAML; SettingsError if it cannot be read."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"cannot read {text!r}: {reason_of(error)}") from None
