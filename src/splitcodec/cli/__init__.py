"""The verbs. Each step of the workflow is one of them, and can be run by hand.

Imports of torch and friends stand inside the verbs: `--help` and bad parameters answer at once.
None does more than check, load and call. `splitcodec --help` lists them in this order.
"""

# ruff: noqa: F401, I001 (imported for their commands, in the order of the workflow)

import sys
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
from splitcodec.errors import SplitcodecError


def main() -> NoReturn:
    """Entry point: our errors become one line and exit status 1."""
    try:
        app(standalone_mode=True)
    except SplitcodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{place}", file=sys.stderr)
        sys.exit(1)
