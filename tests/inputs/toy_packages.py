import io
import tarfile
from pathlib import Path

from splitcodec.files import sha256_of_file
from splitcodec.settings import PackageSource

UNREACHABLE = "http://127.0.0.1:9"


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def package(kind: str, archive: Path, path: str) -> PackageSource:
    digest = sha256_of_file(archive)
    return PackageSource(kind=kind, package="toy", version="1.0", sha256=digest, path=path)
