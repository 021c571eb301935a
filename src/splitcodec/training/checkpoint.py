"""Checkpoints of training on disk: a checksum, then what torch.save writes.

PyTorch's own format does not notice every flipped bit in the weights. Pickled code is never run.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import torch

from splitcodec.errors import TrainingError
from splitcodec.files import atomic_path

_START = struct.Struct("<8sI")
_MAGIC = b"\x89RDCKPT\n"
_PIECE = 1 << 20


class _Checked:
    """A file that keeps the checksum of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.checksum = file, 0

    def write(self, data: bytes) -> int:
        self.checksum = google_crc32c.extend(self.checksum, bytes(data))
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_START.pack(_MAGIC, 0))
        checked = _Checked(file)
        torch.save(state, checked)
        file.seek(0)
        file.write(_START.pack(_MAGIC, checked.checksum))


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What was saved; TrainingError if the file is damaged or no checkpoint."""
    try:
        with path.open("rb") as file:
            start = file.read(_START.size)
            if start != _START.pack(_MAGIC, _checksum_of_rest(file)):
                raise ValueError("its checksum does not fit")
            file.seek(_START.size)
            state = torch.load(file, weights_only=True, map_location=device)
        if not isinstance(state, dict):
            raise TypeError("it holds no dictionary")
        return state
    except Exception as error:
        # The restricted unpickler raises whatever the bytes lead it to.
        raise TrainingError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); "
            "delete it to train from the start"
        ) from None


def _checksum_of_rest(file: BinaryIO) -> int:
    checksum = 0
    while piece := file.read(_PIECE):
        checksum = google_crc32c.extend(checksum, piece)
    return checksum
