import pytest
import torch

from splitcodec.codecs.checksum import checksum, seal, trim, unseal
from splitcodec.errors import BitstreamError

SYMBOLS = torch.arange(24, dtype=torch.int32).view(2, 4, 3)


def test_a_checksum_changes_with_every_symbol():
    expected = checksum(SYMBOLS)
    for place in range(24):
        changed = SYMBOLS.clone()
        changed.view(-1)[place] += 1
        assert checksum(changed) != expected


def test_sealed_streams_are_checked():
    lengths = torch.tensor([4, 2])
    rows = trim(lengths, SYMBOLS)[0]
    assert [row.shape for row in rows] == [(4, 3), (2, 3)]
    sealed = [seal(body, row) for body, row in zip([b"one", b""], rows, strict=True)]
    assert [len(stream) for stream in sealed] == [7, 4]
    bodies, checksums = unseal(sealed)
    assert bodies == [b"one", b""]
    checksums.check(rows)
    rows[1][0, 0] += 1
    with pytest.raises(BitstreamError, match="sequence 1 of the batch decoded to other symbols"):
        checksums.check(rows)


def test_padding_does_not_count():
    spoilt = SYMBOLS.clone()
    spoilt[1, 2:] = 99
    lengths = torch.tensor([4, 2])
    sums = [[checksum(row) for row in trim(lengths, part)[0]] for part in (SYMBOLS, spoilt)]
    assert sums[0] == sums[1]


def test_a_stream_too_short_for_a_checksum():
    with pytest.raises(BitstreamError, match="too short"):
        unseal([b"long enough", b"abc"])
