import pytest
from fake_hub import serve
from toy_packages import UNREACHABLE

from splitcodec.errors import InputError
from splitcodec.inputs.hub import download_snapshot
from splitcodec.inputs.models import fetch_model
from splitcodec.inputs.text import fetch_text
from splitcodec.inputs.tokens import open_table
from splitcodec.settings import HubSource, RandomSource


def source(repository="lab/toy", revision="main", path="*"):
    return HubSource(kind="hub", repository=repository, revision=revision, path=path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub"

    def point_to(address):
        # read from the environment when the library is imported, so too late for HF_ENDPOINT
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    folder.mkdir()
    return folder, point_to


def test_a_model_comes_without_pickles_and_other_formats(hub, tmp_path):
    folder, point_to = hub
    small = RandomSource(kind="random", architecture="llama", blocks=1)
    fetch_model(small, folder / "original")
    (folder / "original" / "splitcodec.json").unlink()
    for path in (folder / "original").iterdir():
        path.rename(folder / path.name)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "original" / "copy.safetensors").write_bytes(b"other")
    with serve("lab/toy", "model", folder) as (address, requests):
        point_to(address)
        fetch_model(source(), tmp_path / "models" / "toy")
    made = {path.name for path in (tmp_path / "models" / "toy").iterdir()}
    assert made == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "splitcodec.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not [path for path in requests if path.endswith((".bin", "copy.safetensors"))]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy"]


def test_what_was_fetched_is_not_fetched_again(hub, tmp_path):
    folder, point_to = hub
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name)
    with serve("lab/toy", "dataset", folder) as (address, requests):
        point_to(address)
        for pattern in ("a.txt", "*.txt", "b.txt"):
            fetch_text(source(path=pattern), None, tmp_path / "d.parquet")
        names = [path.rpartition("/")[2] for path in requests if "resolve" in path]
        assert names.count("a.txt") == names.count("b.txt") == 2  # HEAD and GET, once each
    file, _ = open_table(tmp_path / "d.parquet", "text")
    assert file.read()["document"].to_pylist() == ["b"]


def test_text_comes_by_glob(hub, tmp_path):
    folder, point_to = hub
    (folder / "train").mkdir()
    (folder / "train" / "a.txt").write_text("one")
    (folder / "train" / "b.txt").write_text("two")
    (folder / "README.md").write_text("about")
    with serve("lab/toy", "dataset", folder) as (address, _):
        point_to(address)
        fetch_text(source(path="train/*.txt"), None, tmp_path / "d.parquet")
    file, meaning = open_table(tmp_path / "d.parquet", "text")
    assert file.read()["document"].to_pylist() == ["a", "b"]
    assert meaning["source"]["revision"] == "main"


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (source("lab/other"), "the hub has no model 'lab/other', or it is private"),
        (source(revision="nowhere"), "lab/toy has no revision 'nowhere'"),
        (source("a/b/c"), "'a/b/c' names no repository"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub, tmp_path, wanted, complaint):
    folder, point_to = hub
    with serve("lab/toy", "model", folder) as (address, _):
        point_to(address)
        with pytest.raises(InputError, match=complaint):
            download_snapshot(wanted, "model", ["*"])


def test_no_network_is_one_clear_error(hub, tmp_path):
    _, point_to = hub
    point_to(UNREACHABLE)
    with pytest.raises(InputError, match=r"cannot fetch lab/toy from the hub: .*check the network"):
        fetch_model(source(), tmp_path / "models" / "toy")
    assert list((tmp_path / "models").iterdir()) == []
