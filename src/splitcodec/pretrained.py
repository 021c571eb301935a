"""Models of transformers from their directories: all of their weights, and none of their code."""

from pathlib import Path
from typing import Any

from torch import nn

from splitcodec.errors import InputError

_UNREAD = ("pooler.", "mask_token")
"""In names of weights that nothing here reads, and that encoders are shipped without."""


def read_pretrained(kind: Any, directory: Path, **options: Any) -> nn.Module:
    """What an Auto class of transformers makes of a directory.

    Raises InputError for weights that are not there, which transformers would make at random, in
    every process others.
    """
    model, found = kind.from_pretrained(
        directory,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    missing = sorted(
        name for name in found["missing_keys"] if not any(part in name for part in _UNREAD)
    )
    if missing:
        raise InputError(
            f"{directory} has no weights {missing[0]}"
            + (f" and {len(missing) - 1} more" if missing[1:] else "")
            + ", as its config.json describes it; fetch it again, or save it whole"
        )
    return model
