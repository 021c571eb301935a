"""Every block of README and docs runs, on the tiny experiment; what cannot says why."""

import shutil

import pytest
from doc_blocks import PAGES, ROOT, Block, blocks_of, inside, run

from splitcodec.codecs.catalogue import LEARNED
from splitcodec.codecs.registry import _CLASSES
from splitcodec.splitting.layouts import _LAYOUTS
from splitcodec.training.fitting import FITTERS

RUNNABLE = [page for page in PAGES if any(not block.reason for block in blocks_of(page))]


@pytest.fixture(scope="module")
def checkout(tiny_experiment, tmp_path_factory):
    """A copy of the tiny experiment with the workflow beside it; pages may write into it."""
    directory = tmp_path_factory.mktemp("docs") / "checkout"
    shutil.copytree(tiny_experiment, directory, symlinks=True)
    for name in ("Snakefile", "workflow", "params", "profiles"):
        if not (directory / name).exists():
            (directory / name).symlink_to(ROOT / name)
    return directory


@pytest.fixture(autouse=True)
def registries():
    """What a page registers is gone after it."""
    before = [(table, dict(table)) for table in (LEARNED, _CLASSES, _LAYOUTS, FITTERS)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page, checkout):
    names = {"__name__": "documentation"}
    with inside(checkout):
        for block in blocks_of(page):
            if block.language in ("sh", "python", "yaml") and not block.reason:
                try:
                    run(block, names)
                except Exception as error:
                    raise AssertionError(f"{block}: {error}") from error


def test_every_block_says_what_it_is():
    unknown = [
        str(block)
        for page in PAGES
        for block in blocks_of(page)
        if block.language not in ("sh", "python", "yaml", "text", "json", "")
    ]
    assert not unknown


def test_what_is_not_run_says_why(record_property):
    skipped = [block for page in PAGES for block in blocks_of(page) if block.reason]
    record_property("not_run", [f"{block}: {block.reason}" for block in skipped])
    print(f"\n{len(skipped)} blocks are not run here:")
    for block in skipped:
        print(f"  {block}: {block.reason}")
    assert all(len(block.reason.split()) > 3 for block in skipped)
    blocks = sum(len(blocks_of(page)) for page in PAGES)
    assert len(skipped) < blocks / 3, "most blocks are there to be run"


def test_a_broken_block_fails(checkout):
    for language, text in (
        ("sh", "splitcodec summary results/none\n"),
        ("sh", "make no-such-target\n"),
        ("sh", "frobnicate\n"),
        ("python", "assert False\n"),
        ("yaml", "codec: []\n"),
        ("yaml", "codecs: [{name: none, lambdas: [1.0]}]\n"),
    ):
        with inside(checkout), pytest.raises((AssertionError, ValueError)):
            run(Block(ROOT / "README.md", 1, language, text, None), {})
