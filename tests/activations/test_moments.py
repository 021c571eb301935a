import numpy as np
import pytest
import torch

from small_world import gaussian_covariance, one_line, write_store
from splitcodec.activations.moments import moments_of, ordinary_tokens, sample_tokens
from splitcodec.errors import InputError

CHANNELS = 5
LENGTHS = (9, 4, 7, 1, 12)


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    covariance = gaussian_covariance(CHANNELS).numpy()
    mean = np.arange(CHANNELS)
    drawn = [generator.multivariate_normal(mean, covariance, n) for n in LENGTHS]
    return [torch.from_numpy(row).float() for row in drawn]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_moments_are_those_of_numpy_without_first_tokens(tmp_path, rows, batch):
    moments = moments_of(write_store(tmp_path / "a.parquet", rows), batch)
    usual = np.concatenate([row[1:].double().numpy() for row in rows])
    np.testing.assert_allclose(moments.mean, usual.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(usual.T, bias=True), atol=1e-12)
    first = np.stack([row[0].double().numpy() for row in rows])
    np.testing.assert_allclose(moments.first_mean, first.mean(0), rtol=1e-12)
    assert (moments.tokens, moments.sinks) == (sum(LENGTHS) - len(LENGTHS), 0)


def test_contexts_are_averaged_over_all_tokens_that_count(tmp_path, rows):
    """Of pictures the first token does, though it has none and is none of another's."""
    store = write_store(tmp_path / "a.parquet", [row for row in rows if len(row) > 1], patch=1)
    moments = moments_of(store, history=True)
    assert moments.tokens == sum(n for n in LENGTHS if n > 1)
    several = [row.double() - moments.mean for row in rows if len(row) > 1]
    after = torch.cat([row[1:] for row in several])
    before = torch.cat([torch.cat([torch.zeros(1, CHANNELS), row[1:-1]]) for row in several])
    cross = after.T @ before / moments.tokens
    torch.testing.assert_close(moments.context.cross, cross, rtol=1e-4, atol=1e-4)


def test_contexts_of_uneven_channels_keep_their_small_differences(tmp_path):
    """What is left after prediction may be a difference of nearly equal matrices."""
    torch.manual_seed(0)
    slow = torch.randn(400, 1).cumsum(0)
    row = torch.cat([1e4 * slow, slow + 1e-3 * torch.randn(400, 1)], 1)
    moments = moments_of(write_store(tmp_path / "a.parquet", [row.float()], patch=1), history=True)
    exact = row.double() - moments.mean
    earlier = exact[1:-1]  # a first token predicts none
    expected = earlier.T @ earlier / 400
    torch.testing.assert_close(
        torch.linalg.det(moments.context.covariance[:2, :2]),
        torch.linalg.det(expected),
        rtol=1e-2,
        atol=0,
    )


@pytest.mark.parametrize("batch", [1, 8])
def test_of_pictures_each_token_deviates_from_the_mean_that_it_is_coded_about(
    tmp_path, rows, batch
):
    for row in rows:
        row[0] += 7  # as a class token may differ
    moments = moments_of(write_store(tmp_path / "a.parquet", rows, patch=1), batch)
    first, later = torch.stack([r[0] for r in rows]), torch.cat([r[1:] for r in rows])
    deviations = torch.cat([first - first.mean(0), later - later.mean(0)])
    assert (moments.tokens, moments.sinks) == (sum(LENGTHS), 0)
    torch.testing.assert_close(moments.mean.float(), later.mean(0))
    torch.testing.assert_close(moments.first_mean.float(), first.mean(0))
    expected = torch.from_numpy(np.cov(deviations.T.numpy(), bias=True))
    torch.testing.assert_close(
        moments.covariance, expected, rtol=1e-4, atol=1e-4, check_dtype=False
    )


def test_pictures_of_one_token_have_moments(tmp_path, rows):
    store = write_store(tmp_path / "a.parquet", [row[:1] for row in rows], patch=1)
    first = torch.cat([row[:1] for row in rows])
    moments = moments_of(store)
    torch.testing.assert_close(moments.mean.float(), first.mean(0))
    expected = torch.from_numpy(np.cov(first.T.numpy(), bias=True))
    torch.testing.assert_close(
        moments.covariance, expected, rtol=1e-4, atol=1e-4, check_dtype=False
    )


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_which_tokens_are_sinks_does_not_depend_on_the_batch(tmp_path, rows, batch):
    uneven = [row * 10.0**number for number, row in enumerate(rows)]
    uneven[0] = torch.cat([uneven[0], torch.full((1, CHANNELS), 80.0)])
    moments = moments_of(write_store(tmp_path / "a.parquet", uneven), batch)
    assert (moments.sinks, moments.tokens) == (1, sum(LENGTHS) - len(LENGTHS))


def test_sinks_are_left_out_and_counted(tmp_path, rows):
    without = moments_of(write_store(tmp_path / "a.parquet", rows))
    spoilt = [row.clone() for row in rows]
    spoilt[0] = torch.cat([rows[0], torch.full((1, CHANNELS), 25_000.0)])
    spoilt[2] = torch.cat([rows[2][:3], torch.full((1, CHANNELS), -3_000.0), rows[2][3:]])
    spoilt[4][0] = 26_800
    moments = moments_of(write_store(tmp_path / "b.parquet", spoilt))
    assert (moments.sinks, moments.tokens) == (2, without.tokens)
    torch.testing.assert_close(moments.mean, without.mean)
    torch.testing.assert_close(moments.covariance, without.covariance)
    assert moments.first_mean.max() > 5_000


def test_too_few_tokens_are_refused(tmp_path):
    store = write_store(tmp_path / "a.parquet", [torch.ones(2, 3), torch.ones(1, 3)])
    with pytest.raises(InputError, match="too few tokens") as caught:
        moments_of(store)
    assert one_line(caught.value)


def test_ordinary_tokens_are_neither_first_nor_padding_nor_sinks():
    representation = torch.ones(2, 4, 3)
    representation[0, 2] = 20.0
    representation[1, 1] = 5.0
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    usable = ordinary_tokens(representation, mask)
    assert usable.tolist() == [[False, True, False, True], [False, True, True, False]]


def test_a_sample_is_repeatable_and_made_of_ordinary_tokens(tmp_path, rows):
    rows[1][2] = 30_000
    store = write_store(tmp_path / "a.parquet", rows)
    sample = sample_tokens(store, 15, seed=3).values
    assert sample.shape == (15, CHANNELS)
    assert torch.equal(sample, sample_tokens(store, 15, seed=3).values)
    assert any(not torch.equal(sample, sample_tokens(store, 15, seed).values) for seed in (4, 5, 6))
    ordinary = {tuple(row.tolist()) for sequence in rows for row in sequence[1:]}
    taken = [tuple(row.tolist()) for row in sample]
    assert len(set(taken)) == 15
    assert set(taken) <= ordinary - {(30_000.0,) * CHANNELS}


def test_a_sample_larger_than_the_store_is_the_whole_store(tmp_path, rows):
    store = write_store(tmp_path / "a.parquet", rows)
    assert len(sample_tokens(store, 10_000, seed=0).values) == sum(LENGTHS) - len(LENGTHS)
