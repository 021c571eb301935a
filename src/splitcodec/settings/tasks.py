"""Downstream tasks on a model with the codec inside."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from splitcodec.settings.base import Name, Strict


class HarnessTask(Strict):
    """A task of lm-evaluation-harness, which must be installed (`requirements-tasks.txt`)."""

    kind: Literal["harness"]
    name: Name = Field(description="of its columns in the table of points")
    task: str = Field(description="the harness's name for it, such as lambada_openai")
    metric: str = Field("acc", description="of each item, between 0 and 1")
    filter: str | None = Field(
        None, description="of the task's filters, the one whose answers count, where it has several"
    )
    items: PositiveInt | None = Field(None, description="the first so many; all if left out")


class FilesTask(Strict):
    """JSON lines of the user, each with a `context` and the `continuation` that is right."""

    kind: Literal["files"]
    name: Name = Field(description="of its columns in the table of points")
    path: str = Field(description="glob, relative to the checkout")
    items: PositiveInt | None = Field(None, description="the first so many; all if left out")


Task = Annotated[HarnessTask | FilesTask, Field(discriminator="kind")]
