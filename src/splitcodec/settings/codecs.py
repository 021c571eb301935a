"""Which codecs are trained, in which mode, and which need no training."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from splitcodec.codecs.catalogue import (
    CODERS,
    LOG_RATE_WEIGHT_A_LEVEL,
    hyperparameters_of,
    is_baseline,
    middle,
)
from splitcodec.errors import SettingsError
from splitcodec.settings.base import Different, Name, PositiveFloat, Seed, Strict
from splitcodec.settings.optimisation import Tuning

Mode = Literal["frozen", "back", "back-adapters", "end-to-end", "end-to-end-adapters"]


class Codec(Strict):
    """A codec trained once for each λ and seed."""

    name: Name = Field(description="of its points and curve")
    codec: str = Field("", description="what codes; `name` if left out")
    mode: Mode = Field(
        "frozen",
        description="what learns beside the codec: nothing, the blocks after the split with norm "
        "and head, or all of the model; by all their weights or by low-rank adapters",
    )
    lambdas: Annotated[list[PositiveFloat], Different] = Field(
        [], description="λ: nats a token that one bit a token is worth; none for fp16 and integers"
    )
    shared: bool = Field(
        False, description="train one codec, with levels, for all λ from the least to the largest"
    )
    seeds: Annotated[list[Seed], Different] = Field(
        [], description="of this codec alone; the experiment's if left out"
    )
    set: dict[str, Any] = Field({}, description="hyper-parameters that differ from the defaults")
    start: Name | None = Field(
        None,
        description="with trellis: the codec, trained without, that it is put into; if left out, "
        "another is trained",
    )
    tuning: Tuning = Field(Tuning(), description="how the model learns; nothing in mode frozen")

    @model_validator(mode="before")
    @classmethod
    def named_after_its_codec(cls, values: Any) -> Any:
        """A codec needs a name of its own only where there are several of a kind."""
        return (
            {"codec": values["name"], **values}
            if isinstance(values, dict) and "name" in values
            else values
        )

    @field_validator("name")
    @classmethod
    def no_baseline(cls, name: str) -> str:
        """Names of baselines are theirs."""
        if is_baseline(name):
            raise ValueError(f"{name} is a baseline's; name it under baselines, or otherwise")
        return name

    @field_validator("codec")
    @classmethod
    def known(cls, codec: str) -> str:
        """A codec of the catalogue."""
        try:
            hyperparameters_of(codec)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return codec

    @field_validator("lambdas")
    @classmethod
    def written_in_names(cls, lambdas: list[float]) -> list[float]:
        """Files are named by λ in six digits."""
        for weight in lambdas:
            if float(f"{weight:g}") != weight:
                raise ValueError(f"{weight!r} has more than six digits; write {weight:g}")
        return lambdas

    @field_validator("set")
    @classmethod
    def fitting(cls, changes: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Only hyper-parameters that the codec has."""
        if "codec" in info.data:
            hyperparameters_of(info.data["codec"]).model_validate(changes)
        return changes

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Codec, mode and λ go together."""
        own = self.hyperparameters
        if self.start and not getattr(own, "trellis", False):
            raise ValueError("start is for set: {trellis: true}; leave it out")
        if self.shared and len(self.lambdas) < 2:
            raise ValueError("shared is for several λ; name more, or leave it out")
        shared = self.lambdas if self.shared else []
        check_mode(self.codec, self.mode, own.model_dump(), shared)
        if is_baseline(self.codec) and self.mode == "frozen":
            raise ValueError(f"{self.codec} has nothing to learn; name it under baselines")
        if is_baseline(self.codec) and self.lambdas:
            raise ValueError(f"{self.codec} has no λ; leave lambdas out")
        if not is_baseline(self.codec) and not self.lambdas:
            raise ValueError(f"{self.codec} needs lambdas")
        if self.mode == "frozen" and "tuning" in self.model_fields_set:
            raise ValueError("tuning is for the modes in which the model learns, not for frozen")
        return self

    @property
    def hyperparameters(self) -> BaseModel:
        """Those of `set`, and the defaults."""
        return hyperparameters_of(self.codec).model_validate(self.set)

    @property
    def compares_outputs(self) -> bool:
        """Whether its training compares what the model says of the training text with and without
        the codec, for which the uncoded final representation is needed."""
        if changes_front(self.mode) or self.start:
            return False
        to_the_model = self.mode != "frozen" and self.tuning.loss == "kl"
        return to_the_model or getattr(self.hyperparameters, "polish_steps", 0) > 0

    def check_start(self, codecs: Mapping[str, "Codec"], seeds: list[int]) -> None:
        """Raise ValueError unless what it starts from is the same codec before its trellis.

        `seeds`: of codecs that have none of their own.
        """
        if self.start is None:
            return
        if self.start not in codecs:
            raise ValueError(f"{self.name}: start: there is no codec {self.start}")
        other = codecs[self.start]
        same = all(getattr(self, key) == getattr(other, key) for key in ("codec", "mode", "shared"))
        same = same and other.hyperparameters == self.hyperparameters.model_copy(
            update={"trellis": False}
        )
        wanted, there = set(self.lambdas), set(other.lambdas)
        same = same and (wanted == there if self.shared else wanted <= there)
        if not same or not set(self.seeds or seeds) <= set(other.seeds or seeds):
            raise ValueError(
                f"{self.name}: start: {other.name} must have the same settings but for the "
                "trellis, and each λ and seed"
            )


def changes_front(mode: str) -> bool:
    """Whether the front learns too, so that stored representations are not its own."""
    return mode.startswith("end-to-end")


def check_mode(codec: str, mode: Mode, changes: Mapping[str, Any], shared: Sequence[float]) -> None:
    """Raise ValueError for a codec that cannot learn in this mode, or all `shared` λ.

    `changes` are its hyper-parameters, at least those that are not the defaults.
    """
    levels = changes.get("levels", 0)
    if codec in ("klt", "trellis") and changes_front(mode):
        raise ValueError(f"{codec} has no gradient; it goes with the modes frozen and back")
    if levels and changes_front(mode):
        raise ValueError("levels follow the sensitivity of a fixed front; end to end has none")
    if changes.get("trellis") and mode != "frozen":
        raise ValueError("a trellis has no gradient; it goes with the mode frozen alone")
    for name in ("tokens", "history"):
        if changes.get(name) and changes_front(mode):
            raise ValueError(f"{name} predicts what a fixed front makes; end to end has none")
    if not shared:
        return
    if mode != "frozen":
        raise ValueError("one codec for several λ goes with mode frozen")
    if len(set(shared)) < len(shared):
        raise ValueError("one codec for several λ has each of them once")
    farthest = max(abs(math.log(weight / middle(shared))) for weight in shared)
    least = math.ceil(farthest / LOG_RATE_WEIGHT_A_LEVEL)
    if levels < least:
        raise ValueError(f"one codec for these λ needs levels, {least} or more")


class Baselines(Strict):
    """Codecs without learning, each with every lossless coder."""

    codecs: Annotated[list[Name], Different] = Field([])
    coders: Annotated[list[Literal[CODERS]], Different] = Field(["raw", "deflate", "zstd"])

    @field_validator("codecs")
    @classmethod
    def known(cls, codecs: list[str]) -> list[str]:
        """Only codecs without λ."""
        for name in codecs:
            if not is_baseline(name):
                raise ValueError(f"{name} is not a baseline; write fp16, or int2 to int8")
        return codecs
