"""Trellis-coded quantisation: the search, the quantisers, and what they are worth."""

import itertools

import pytest
import torch
from codec_samples import (
    CHANNELS,
    LEARNED,
    MEAN,
    RATE_WEIGHT,
    divergence_of,
    fitted_klt,
    fitted_trellis,
    representations,
)

from splitcodec.codecs.viterbi import State, cheapest_path
from splitcodec.densities.two_quantisers import TwoQuantisers, table_costs, values_of
from splitcodec.errors import InputError


@pytest.fixture(scope="module")
def trellis():
    return fitted_trellis()


def branches_of(parities):
    """2 · quantiser + parity of each symbol of these parities."""
    state, branches = State.first(), []
    for parity in parities:
        branches.append(2 * int(state.a) + parity)
        state = state.after(parity)
    return branches


def test_no_path_is_cheaper():
    generator = torch.Generator().manual_seed(0)
    costs = torch.randint(0, 1000, (7, 4, 20), dtype=torch.int32, generator=generator)
    found = costs.gather(1, cheapest_path(costs)[:, None]).sum((0, 1))
    paths = torch.tensor([branches_of(p) for p in itertools.product((0, 1), repeat=7)])
    every = costs[torch.arange(7), paths].sum(1)
    torch.testing.assert_close(found, every.amin(0), check_dtype=False)


def test_the_path_is_one_that_the_decoder_walks():
    generator = torch.Generator().manual_seed(1)
    costs = torch.randint(0, 1 << 24, (200, 4, 5), dtype=torch.int32, generator=generator)
    path = cheapest_path(costs)
    for token in range(5):
        own = path[:, token].tolist()
        assert own == branches_of([branch % 2 for branch in own])


def test_large_costs_do_not_overflow():
    """A thousand steps near the largest cost, against integers without a bound."""
    generator = torch.Generator().manual_seed(2)
    costs = torch.randint((1 << 24) - 5000, 1 << 24, (1000, 4, 3), generator=generator)
    sums = [[0] + [1 << 40] * 7 for _ in range(3)]
    states = [State(*(s >> bit & 1 for bit in range(3))) for s in range(8)]
    after = [[int(n.a) + 2 * int(n.b) + 4 * int(n.c) for n in map(s.after, (0, 1))] for s in states]
    for step in costs.permute(0, 2, 1).tolist():
        for token, own in enumerate(step):
            following = [1 << 41] * 8
            for state, parity in itertools.product(range(8), (0, 1)):
                total = sums[token][state] + own[2 * (state & 1) + parity]
                at = after[state][parity]
                following[at] = min(following[at], total)
            sums[token] = following
    path = cheapest_path(costs.to(torch.int32))
    found = costs.gather(1, path[:, None]).sum((0, 1)).tolist()
    assert found == [min(own) for own in sums]


def test_symbols_are_those_of_the_nearest_values():
    """Each table's mass at a symbol is that of the values nearest to what it stands for."""
    tables = TwoQuantisers().tables()
    scale_of = [3, 30]
    deviates = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    for shifted, scale_index in itertools.product((0, 1), scale_of):
        scale = 0.11 * (64 / 0.11) ** (scale_index / 63)
        symbols = torch.arange(-40, 41)
        values = values_of(symbols, torch.full_like(symbols, shifted))
        middles = (values[1:] + values[:-1]) / 2
        found = torch.bincount(torch.bucketize(deviates * scale, middles), minlength=81)
        row = 64 * shifted + scale_index
        mass = tables.cumulative[row].diff() / 65536
        lowest, used = int(tables.lowest[row]), int(tables.sizes[row]) - 2
        expected = torch.zeros(81)
        expected[40 + lowest : 40 + lowest + used] = mass[:used]
        torch.testing.assert_close(found / len(deviates), expected, atol=3e-3, rtol=0)


def test_costs_are_the_code_lengths_of_the_tables():
    tables = TwoQuantisers().tables()
    costs = table_costs(tables) / 1024
    for row in (0, 40, 63, 64, 127):
        start = -int(tables.lowest[row])
        mass = tables.cumulative[row].diff()[start : start + 3] / 65536
        torch.testing.assert_close(costs[row, :3].float(), -mass.log2(), atol=1e-3, rtol=0)


def test_it_is_worth_what_a_trellis_is(trellis):
    """Of the quarter of a bit that rounding loses at high rate, half a channel's comes back."""
    fresh, lengths = representations(8, 200, seed=7)[:, 1:], torch.full((8,), 199)

    def objective(codec):
        with torch.no_grad():
            found = codec(torch.cat([representations(8, 1), fresh], 1), lengths + 1)
        return (
            divergence_of(found.reconstruction[:, 1:] - fresh)
            + RATE_WEIGHT * found.bits[:, 1:].mean().item()
        )

    plain, ours = objective(fitted_klt()), objective(trellis)
    saved = (plain - ours) / RATE_WEIGHT / trellis.kept
    assert 0.08 < saved < 0.25


def test_streams_are_as_long_as_estimated(trellis):
    data = representations(4, 300, seed=3), torch.full((4,), 300)
    streams = trellis.compress(*data)
    bits = 8 * sum(len(stream) - 8 for stream in streams)  # checksum and the coder's state
    with torch.no_grad():
        assert bits == pytest.approx(trellis(*data).bits.sum().item(), rel=0.01)


def test_tokens_that_are_the_mean_have_symbols_too(trellis):
    """Zero has no sign, and yet a parity."""
    representation = MEAN.float().expand(2, 5, CHANNELS).clone()
    lengths = torch.tensor([5, 3])
    decoded = trellis.decompress(trellis.compress(representation, lengths), lengths)
    with torch.no_grad():
        expected = trellis(representation, lengths).reconstruction
    torch.testing.assert_close(decoded, expected)


def test_far_values_are_coded_as_exactly_as_near_ones(trellis):
    representation = representations(1, 6, seed=5)
    representation[0, 3] *= 3e4
    lengths = torch.tensor([6])
    decoded = trellis.decompress(trellis.compress(representation, lengths), lengths)
    error = (decoded - representation) @ trellis.analysis.T
    longer = (trellis.synthesis * trellis.analysis.T).sum(0) - 1
    latent = (representation[0, 3] - MEAN.float()) @ trellis.analysis.T
    assert (error[0, 3] - longer * latent).abs().max() < 3


def test_a_lambda_at_which_nothing_is_coded():
    codec = fitted_trellis(1e6)
    assert codec.kept == 0
    data = representations(2, 5), torch.tensor([5, 2])
    assert torch.isfinite(codec.decompress(codec.compress(*data), data[1])).all()


def test_a_trellis_in_training_mode_is_refused():
    codec = LEARNED["direct-access-trellis"]().train()
    with pytest.raises(InputError, match=r"a trellis does not learn: call eval\(\)"):
        codec(representations(1, 9), torch.tensor([9]))


def test_symbols_do_not_depend_on_who_is_coded_beside(trellis):
    """More tokens than are searched at a time, of several lengths, on one thread or more."""
    representation, lengths = representations(3, 900, seed=11), torch.tensor([900, 411, 833])
    together, threads = trellis.compress(representation, lengths), torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        for row, length in enumerate(lengths):
            alone = trellis.compress(representation[row : row + 1, :length], length[None])
            assert alone == together[row : row + 1]
    finally:
        torch.set_num_threads(threads)


def test_an_estimate_of_what_is_no_number_is_none(trellis):
    representation = representations(1, 4)
    representation[0, 2, 3] = torch.nan
    with torch.no_grad():
        bits = trellis(representation, torch.tensor([4])).bits[0]
    assert bits.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_programs_default_type_does_not_matter(trellis, dtype):
    data = representations(2, 9), torch.tensor([9, 4])
    streams, before = trellis.compress(*data), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert trellis.compress(*data) == streams
        assert trellis.decompress(streams, data[1]).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
