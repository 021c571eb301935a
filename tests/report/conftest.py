"""Results of an experiment that never ran, for everything that reads results."""

import shutil
from pathlib import Path

import pytest
import synthetic


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Two splits, two learned codecs, all baselines, one seed, with the table of points."""
    results = synthetic.build(tmp_path_factory.mktemp("built"))
    synthetic.collect_points(results)
    return results


@pytest.fixture
def results(built, tmp_path) -> Path:
    """A copy of `built` that a test may spoil."""
    return shutil.copytree(built, tmp_path / "results")
