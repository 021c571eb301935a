import shutil

import pytest
from filelock import FileLock

from workflow_runs import ROOT, snakemake

LONGEST = "workflow"
"""The folder whose tests run whole experiments."""


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.parent.name != LONGEST)


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory, worker_id):
    """The real workflow on params/tiny.yaml, once for all processes; to be copied, not changed."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    directory = shared / "tiny-experiment"
    with FileLock(shared / "tiny-experiment.lock"):
        if not directory.exists():
            made = shared / "tiny-experiment-unfinished"
            shutil.rmtree(made, ignore_errors=True)
            (made / "data").mkdir(parents=True)
            (made / "data/tiny").symlink_to(ROOT / "data/tiny")
            done = snakemake(made)
            assert done.returncode == 0, done.stderr[-3000:]
            made.rename(directory)
    return directory


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small model, its tokens and representations; nothing may change it."""
    # Imported here: rooms that do without torch should not pay for it.
    from small_world import build_world

    return build_world(tmp_path_factory.mktemp("world"))
