"""What is stored of a representation, and what is measured."""

from pydantic import Field, PositiveInt

from splitcodec.settings.base import Dtype, Strict


class Activations(Strict):
    """How representations are stored."""

    dtype: Dtype = Field("float16", description="of the stored values")
    batch_sequences: PositiveInt = Field(4, description="sequences a forward pass")
    train_sequences: PositiveInt | None = Field(
        None, description="of the training partition, spread evenly; all if left out"
    )
    shards: PositiveInt = Field(
        1, description="jobs that share the extraction of the training partition"
    )


class Sensitivity(Strict):
    """The Fisher information of the representation, from gradients of sampled labels."""

    sequences: PositiveInt = 16
    batch_sequences: PositiveInt = 2


class Evaluation(Strict):
    """Fidelity on the decoded representation, with intervals by bootstrap over documents."""

    batch_sequences: PositiveInt = 2
    bootstrap: PositiveInt = Field(1000, description="resamples")


class Latency(Strict):
    """Timing of every codec in one process, one after the other."""

    sequences: PositiveInt = 4
    repeats: PositiveInt = 3


class Bounds(Strict):
    """What is estimated about the representation itself."""

    rademacher_draws: int = Field(10_000, ge=2, description="sign vectors")
    rate_sequences: int = Field(16, ge=2, description="training sequences whose rate is measured")
