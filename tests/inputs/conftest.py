import zipfile

import pytest
from toy_packages import package

from splitcodec.settings import PackageSource


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Pip sees one folder of wheels and nothing else; returns what makes a wheel there."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def make(files: dict[str, bytes], path: str) -> PackageSource:
        wheel = folder / "toy-1.0-py3-none-any.whl"
        metadata = {
            "toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
            "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
            "toy-1.0.dist-info/RECORD": b"",
        }
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in {**files, **metadata}.items():
                archive.writestr(name, data)
        return package("pip", wheel, path)

    return make
