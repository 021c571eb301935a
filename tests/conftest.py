import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small model, its tokens and representations; nothing may change it."""
    # Imported here: rooms that do without torch should not pay for it.
    from small_world import build_world

    return build_world(tmp_path_factory.mktemp("world"))
