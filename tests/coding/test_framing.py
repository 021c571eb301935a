import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcodec.coding.framing import join, split
from splitcodec.errors import BitstreamError


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_both_parts_come_back_and_four_bytes_are_added(first, second):
    joined = join(first, second)
    assert len(joined) == len(first) + len(second) + 4
    assert split(joined) == (first, second)


@given(st.binary(min_size=1, max_size=50))
def test_cutting_into_the_first_part_is_noticed(first):
    for size in range(4 + len(first)):
        with pytest.raises(BitstreamError, match="damaged"):
            split(join(first, b"")[:size])


def test_an_impossible_length_is_noticed():
    with pytest.raises(BitstreamError, match="shorter than it says"):
        split(b"\xff\xff\xff\xff" + b"x" * 100)
