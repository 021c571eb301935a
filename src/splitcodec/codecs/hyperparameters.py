"""Hyper-parameters of every codec, typed. Free of torch, so that the workflow can validate them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Density = Literal["factorised", "fourier"]
Family = Literal["gaussian", "laplace", "logistic", "mixture"]


class Hyperparameters(BaseModel):
    """Base: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoHyperparameters(Hyperparameters):
    """Codecs whose name says everything, such as `int4`."""


class KltHyperparameters(Hyperparameters):
    """Closed-form sensitivity-weighted KLT."""

    shrinkage: PositiveFloat = Field(
        0.4, description="share of the mean eigenvalue added to the sensitivity's diagonal"
    )
    samples: PositiveInt = Field(16384, description="tokens used to choose steps and scales")
    tokens: bool = Field(
        False,
        description="send token ids too: from the head's row of its token, the receiver predicts "
        "the representation, and only the rest is coded",
    )
    levels: NonNegativeInt = Field(
        0,
        le=16,
        description="how many step sizes finer, and as many coarser, tokens may choose: those that "
        "the model cares about get more bits, and one codec serves several λ; 0: one step for all",
    )


class TrellisHyperparameters(KltHyperparameters):
    """The closed form with trellis-coded quantisation."""

    levels: Literal[0] = Field(0, description="none: all tokens have the same steps")


class TrainedHyperparameters(KltHyperparameters):
    """Gradient steps from the closed form; defaults fit a CPU."""

    steps: NonNegativeInt = Field(150, description="training steps on stored activations")
    polish_steps: NonNegativeInt = Field(20, description="steps with KL through the frozen back")
    batch_tokens: PositiveInt = Field(2048, description="tokens a step on stored activations")
    polish_batch_tokens: PositiveInt = Field(1024, description="tokens a step through the back")
    learning_rate: PositiveFloat = Field(2e-3, description="peak, networks")
    transform_learning_rate: PositiveFloat = Field(
        30.0, description="peak, transforms, relative to the size of their entries times λ"
    )


class FactorisedHyperparameters(TrainedHyperparameters):
    """A density for each of the KLT's latents."""

    density: Density = Field("factorised", description="deep factorised, or a Fourier basis")
    levels: Literal[0] = Field(0, description="none: densities have a shape, not a scale")


class HyperpriorHyperparameters(TrainedHyperparameters):
    """Hyper-prior on the KLT's latents."""

    side_channels: PositiveInt = Field(24, description="hyper-prior values W a token")
    side_density: Density = Field("factorised", description="of W; or a Fourier basis")
    family: Family = Field("gaussian", description="of the latents; mixture: of three Gaussians")
    width: PositiveInt = Field(96, description="channels of the analysis and prediction networks")
    layers: PositiveInt = Field(1, description="transformer blocks in each network")
    heads: PositiveInt = Field(4, description="attention heads a block")

    @model_validator(mode="after")
    def heads_share_the_width(self) -> Self:
        """Each head has the same number of channels."""
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class DirectAccessHyperparameters(HyperpriorHyperparameters):
    """A causal context of decoded latents beside the hyper-prior."""

    side_channels: NonNegativeInt = Field(24, description="hyper-prior values W a token, or none")
    history: bool = Field(
        False, description="predict linearly from the decoded representation one token before"
    )
    trellis: bool = Field(
        False,
        description="once trained, quantise the channels of a token together: fewer bits, and some "
        "milliseconds a token",
    )

    @model_validator(mode="after")
    def a_trellis_has_a_family_of_its_own(self) -> Self:
        """Its tables are counted, and Gaussian to begin with."""
        if self.trellis and self.family != "gaussian":
            raise ValueError(f"a trellis goes with the family gaussian, not {self.family}")
        return self
