"""What all parameters have in common: strictness, types, and complaints in one line."""

import difflib
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="used in paths")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LARGEST_SEED = (1 << 31) - 1
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dtype = Literal["float16", "bfloat16", "float32"]


def _all_different(items: list) -> list:
    """What names a path must not come twice."""
    names = [getattr(item, "name", item) for item in items]
    if repeated := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return items


Different = AfterValidator(_all_different)


class Strict(BaseModel):
    """Base: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def describe(error: ValidationError) -> str:
    """All complaints of a validation in one line, each as `place: complaint`."""
    return "; ".join(_complaint(item) for item in error.errors())


def _complaint(item: dict) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        if close := difflib.get_close_matches(key, sorted({*_keys()} - {key}), 1):
            return f"{place}: unknown key; did you mean {close[0]}?"
        return f"{place}: unknown key; see workflow/schemas/params.schema.json for the allowed ones"
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, got {item['input']!r:.60}" if place else message


def _keys() -> Iterator[str]:
    """Every key that parameters may have somewhere, hyper-parameters of codecs included."""
    models: list[type[BaseModel]] = [BaseModel]
    for model in models:
        models += model.__subclasses__()
        if model.__module__.startswith("splitcodec."):
            yield from model.model_fields
