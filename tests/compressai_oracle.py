"""CompressAI's entropy models as an oracle, with or without torchvision beside them."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest


def entropy_models() -> ModuleType:
    """`compressai.entropy_models`; skips the test where CompressAI is not installed.

    CompressAI's `__init__` imports torchvision, which the entropy models do not need; without it
    they are imported past that `__init__`.
    """
    spec = importlib.util.find_spec("compressai")
    if spec is None:
        pytest.skip("compressai is not installed (requirements-nodeps.txt)")
    if "compressai" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        parent = importlib.util.module_from_spec(spec)
        parent.get_entropy_coder = lambda: "ans"
        parent.available_entropy_coders = lambda: ["ans"]
        sys.modules["compressai"] = parent
    return importlib.import_module("compressai.entropy_models")
