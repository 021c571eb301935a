"""A small share of the cases that `python tests/fuzz/run.py` reads, for every reader."""

import pytest
import torch
from readers import readers
from run import run

CASES = 25


@pytest.fixture(scope="module")
def under_test(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        from splitcodec.evaluation import bitstreams

        patch.setattr(bitstreams, "load_codec", bitstreams.load_codec)  # the readers exchange it
        yield readers(tmp_path_factory.mktemp("fuzz"))


def test_damaged_files_are_refused_or_read_as_what_they_were(under_test):
    for reader in under_test:
        tally = run(reader, CASES, seed=0)
        assert not tally.defects, "\n".join(tally.defects[:5])
        assert tally.outcomes.total() == CASES


def test_the_fuzzer_sees_a_reader_that_is_careless(under_test):
    """It would not be worth much if it found nothing."""
    careless = next(reader for reader in under_test if reader.name == "model changes, forged")
    exact = type(careless)("careless", careless.original, careless.read, careless.damage)
    assert run(exact, CASES, seed=0).defects, "forged changes pass for the original"

    def broken(data):
        return torch.frombuffer(bytearray(data), dtype=torch.float32)

    assert run(type(careless)("broken", bytes(64), broken), CASES, seed=0).defects
