import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitcodec import cli


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    error: str

    @property
    def complaint(self) -> str:
        """The one line in which a failed verb says why."""
        assert self.code != 0
        assert "Traceback" not in self.error
        lines = [line for line in self.error.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.error
        assert self.error.rstrip().endswith(lines[0]), "the line is not the last"
        return lines[0]


def call(capsys, *arguments) -> Result:
    before = sys.argv
    sys.argv = ["splitcodec", *map(str, arguments)]
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return Result(caught.value.code or 0, captured.out, captured.err)


@pytest.fixture
def run(capsys):
    """Runs a verb in this process; what is not an error of ours fails the test."""
    return lambda *arguments: call(capsys, *arguments)


@pytest.fixture
def out(tmp_path) -> Path:
    """Where verbs that fail must leave nothing."""
    yield tmp_path / "out"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "out" in str(path)]
