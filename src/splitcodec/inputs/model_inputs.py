"""What a model reads: sequences of tokens, or pixels. One face for both.

A table has `documents`, `metadata`, a length, and by row: `values`, what the model is given, and
`marks`, what a store of representations says of each token: its id, or its picture's class.
"""

from pathlib import Path

from splitcodec.errors import InputError
from splitcodec.inputs.pixels import ImageTable, read_pixels
from splitcodec.inputs.tables import read_meaning
from splitcodec.inputs.tokens import TokenTable, read_tokens

InputTable = TokenTable | ImageTable
_READERS = {"tokens": read_tokens, "pixels": read_pixels}


def read_inputs(path: Path) -> InputTable:
    """Open a file of tokens or pixels; raises InputError for any other, or a damaged one."""
    kind = read_meaning(path).get("kind")
    if kind not in _READERS:
        raise InputError(f"{path} holds {kind}, not tokens or pixels")
    return _READERS[kind](path)
