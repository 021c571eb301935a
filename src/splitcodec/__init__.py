"""Rate-distortion optimised split inference of transformers."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["with_codec"]


def __getattr__(name: str) -> Any:
    """`with_codec`, imported when it is asked for: it needs torch, which takes seconds."""
    if name in __all__:
        from splitcodec.inference import wrapped

        return getattr(wrapped, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
