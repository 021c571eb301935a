"""The verbs. Each step of the workflow is one of them, and can be run by hand.

Imports of torch and friends stand inside the verbs: `--help` and bad parameters answer at once.
None does more than check, load and call. `splitcodec --help` lists them in this order.
"""

# ruff: noqa: F401, I001 (imported for their commands, in the order of the workflow)

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from splitcodec.cli import (
    inputs,
    activations,
    training,
    bitstreams,
    evaluation,
    bounds,
    reporting,
)
from splitcodec.cli.common import app
from splitcodec.errors import InputError, SplitcodecError


def main() -> NoReturn:
    """Entry point: our errors become one line and exit status 1."""
    # Importing torch and transformers makes many objects, which stay: a tenth of the start went
    # into looking for garbage among them.
    gc.set_threshold(100_000)
    try:
        app(list(_expanded(sys.argv[1:])), standalone_mode=True)
    except SplitcodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{place}", file=sys.stderr)
        sys.exit(1)


def _expanded(words: list[str]) -> Iterator[str]:
    """The command line with the lines of FILE in place of `--arguments FILE`."""
    rest = iter(words)
    for word in rest:
        if word != "--arguments":
            yield word
        elif (name := next(rest, None)) is None:
            raise InputError("--arguments needs the name of a file with an argument a line")
        else:
            yield from _lines(Path(name))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the arguments in {path} ({error})") from None
