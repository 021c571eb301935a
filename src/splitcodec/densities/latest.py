"""What is computed of tensors that hardly ever change is computed once."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Latest:
    """The latest result of a function, until one of its tensors is another or has changed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._of: tuple[list[Tensor], list[int]] = [], []
        self._result: Any = None

    def __call__(self, *tensors: Tensor) -> Any:
        """Of these tensors."""
        versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        known, of = self._of
        if versions != of or any(a is not b for a, b in zip(tensors, known, strict=True)):
            self._result = self._function(*tensors)
            self._of = list(tensors), versions
        return self._result
