import pickle

import pytest
import torch

from small_world import one_line
from splitcodec.errors import TrainingError
from splitcodec.training import checkpoint
from splitcodec.training.checkpoint import load_checkpoint, save_checkpoint

STATE = {"weights": torch.arange(5.0), "step": 3, "log": [{"loss": 0.5}], "best": None}
CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", STATE)
    return tmp_path / "checkpoint"


def refused(path, match="cannot be read"):
    with pytest.raises(TrainingError, match=match) as caught:
        load_checkpoint(path, CPU)
    assert one_line(caught.value)


def test_it_comes_back(path):
    found = load_checkpoint(path, CPU)
    assert torch.equal(found.pop("weights"), STATE["weights"])
    assert found == {name: value for name, value in STATE.items() if name != "weights"}
    assert list(path.parent.iterdir()) == [path]


def test_every_changed_byte_and_truncation_is_noticed(path):
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        refused(path)
        path.write_bytes(data[:place])
        refused(path)


class Mischief:
    def __reduce__(self):
        return (pytest.fail, ("pickled code was run",))


def test_pickled_code_is_never_run(path, monkeypatch):
    """Not even with a checksum that fits."""
    monkeypatch.setattr(checkpoint.torch, "save", lambda state, file: file.write(state))
    save_checkpoint(path, pickle.dumps({"weights": Mischief()}))
    refused(path, "UnpicklingError")


def test_what_is_no_dictionary_is_refused(path):
    save_checkpoint(path, [1, 2])
    refused(path, "TypeError")
