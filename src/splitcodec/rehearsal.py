"""A large experiment in small: all its codecs, each learning for a few steps on a random model.

What would stop a run after days, such as a setting that does not fit another or a task that cannot
be read, stops its rehearsal after minutes. What it measures means nothing.
"""

from math import gcd
from typing import Any

from splitcodec.settings import Settings

_PREFIX = "rehearsal-"
_MOST = {
    "sequence_length": 64,
    "sequences": 16,
    "train_sequences": 16,
    "batch_sequences": 2,
    "shards": 2,
    "items": 8,
    "steps": 3,
    "warm_up_steps": 1,
    "rate_warm_up_steps": 1,
    "validate_every": 1,
    "polish_steps": 2,
    "batch_tokens": 256,
    "polish_batch_tokens": 128,
    "bootstrap": 100,
    "repeats": 1,
    "rademacher_draws": 200,
    "rate_sequences": 4,
}
"""Of whatever setting has the name."""
_STREAMED = 1000
"""Documents, or pictures, of a stream."""


def rehearsal(settings: Settings) -> dict[str, Any]:
    """Settings of the experiment `<experiment>-rehearsal`, as a params file has them.

    Codecs, λ, baselines, text and tasks are the same, with one seed and few tokens and steps. Each
    language model becomes a random one of three blocks, split after the first, of the layout of the
    model that it stands for where the settings tell it, or of a Llama; models of images stay, at
    their first split. Models and data are stored under names of their own.
    """
    values = _cut(settings.model_dump(mode="json", exclude_none=True))
    values["experiment"] += "-rehearsal"
    values["seeds"] = [0]
    values["models"] = [_model(model) for model in values["models"]]
    values["codecs"] = [
        _codec(written, codec.hyperparameters.model_dump())
        for written, codec in zip(values["codecs"], settings.codecs, strict=True)
    ]
    for data in ("text", "images"):
        if data in values:
            _shorten(values[data])
            values[data]["name"] = _PREFIX + values[data]["name"]
    return values


def _cut(value: Any, name: str = "") -> Any:
    """A setting, or mapping or list of settings, with no number larger than it may be."""
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if not isinstance(value, dict):
        return min(value, _MOST[name]) if name in _MOST and isinstance(value, int) else value
    cut = {key: _cut(item, key) for key, item in value.items()}
    if {"sequences", "batch_sequences"} <= cut.keys():
        cut["batch_sequences"] = gcd(cut["sequences"], cut["batch_sequences"])
    return cut


def _shorten(data: dict[str, Any]) -> None:
    """Read the beginning of a stream alone, where partitions are shares of what was read."""
    if all("share" in partition for partition in data["partitions"].values()):
        for source in [data, *data.get("sources", [])]:
            if "documents" in source.get("source", {}):
                source["source"]["documents"] = min(source["source"]["documents"], _STREAMED)


def _model(model: dict[str, Any]) -> dict[str, Any]:
    if model["reads"] == "images":
        return model | {"splits": model["splits"][:1]}
    architecture = model["source"].get("architecture", "llama")
    # Tasks may have contexts of some thousand bytes, each a token of a random model.
    source = {"kind": "random", "architecture": architecture, "blocks": 3, "context": 4096}
    return model | {"name": _PREFIX + model["name"], "source": source, "splits": [1]}


def _codec(codec: dict[str, Any], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    if codec["mode"] == "frozen":
        del codec["tuning"]  # nothing there learns but the codec
    return codec | {"set": _cut(hyperparameters), "seeds": []}
