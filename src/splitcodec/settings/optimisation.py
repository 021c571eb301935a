"""How the weights of a model learn."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from splitcodec.settings.base import NonNegativeFloat, PositiveFloat, Strict


class Optimisation(Strict):
    """How a model's weights learn: AdamW (β 0.9, 0.95), cosine to a tenth, as the paper trains."""

    steps: PositiveInt = 1000
    sequences: PositiveInt = Field(480, description="a step, over all processes")
    batch_sequences: PositiveInt = Field(
        8,
        description="through the model at once; a step adds up as many batches as it needs, by "
        "their tokens",
    )
    learning_rate: PositiveFloat = Field(6e-4, description="peak, the model's weights")
    weight_decay: NonNegativeFloat = Field(0.1, description="of the model's matrices")
    warm_up_steps: PositiveInt = Field(100, description="until the peak is reached")
    gradient_clip: PositiveFloat = Field(1.0, description="largest norm of the gradient")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="in which the model computes while it learns; weights are float32"
    )

    @model_validator(mode="after")
    def whole_batches(self) -> Self:
        """All batches of a step weigh the same."""
        if self.sequences % self.batch_sequences:
            raise ValueError(
                f"sequences {self.sequences} is no multiple of batch_sequences "
                f"{self.batch_sequences}"
            )
        return self

    @model_validator(mode="after")
    def peak_within_steps(self) -> Self:
        """Who says how long it warms up will want the peak to be reached."""
        if "warm_up_steps" in self.model_fields_set and self.warm_up_steps > self.steps:
            raise ValueError(f"warm_up_steps {self.warm_up_steps} exceed steps {self.steps}")
        return self


class Tuning(Optimisation):
    """How a pretrained model learns together with its codec, in every mode but `frozen`.

    The codec's networks have their own learning rate, among the codec's hyper-parameters.
    """

    learning_rate: PositiveFloat = Field(6e-5, description="peak, the model's weights")
    loss: Literal["cross-entropy", "kl"] = Field(
        "cross-entropy", description="of the text's next token, or from the uncoded prediction"
    )
    rate_warm_up_steps: NonNegativeInt = Field(
        0, description="λ grows to its value over so many steps, lest the rate's gradient win early"
    )
    spread: PositiveFloat = Field(
        0.75, description="deviation of each channel, in quantiser steps, where end-to-end starts"
    )
    rank: PositiveInt = Field(8, description="of the adapters, in the modes that have them")
    validate_every: NonNegativeInt = Field(
        0, description="steps between validations, of which the best is kept; 0: only the last"
    )
    patience: NonNegativeInt = Field(
        0, description="validations in a row without gain that end the training; 0: never"
    )

    @model_validator(mode="after")
    def of_effect(self) -> Self:
        """λ reaches its value; there are validations to be patient about."""
        if self.rate_warm_up_steps >= self.steps:
            raise ValueError(
                f"rate_warm_up_steps {self.rate_warm_up_steps} must be below steps {self.steps}, "
                "or λ never reaches its value"
            )
        if self.patience and not self.validate_every:
            raise ValueError("patience counts validations: set validate_every too")
        return self
