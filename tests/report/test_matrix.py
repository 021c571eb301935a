import numpy as np
import pytest
import synthetic

from splitcodec.report.curves import bd_rate, curves_of
from splitcodec.report.matrix import DOCUMENTS, matrices, read_documents
from splitcodec.report.table import read_points


@pytest.fixture(scope="module")
def points(built):
    return read_points(built / "points.parquet")


def with_documents(points, noise):
    """Sums by document whose totals are those of the table; documents differ, codecs alike."""
    weights = 1 + noise * np.random.default_rng(1).uniform(-1, 1, 20)
    weights /= weights.mean()
    hard = weights - 1  # documents that are hard are so with and without a codec
    keys = ["model", "split", "codec", "coder", "lambda", "seed"]
    found = {}
    for row in points.to_dict("records"):
        key = tuple(-1.0 if row[k] != row[k] or row[k] is None else row[k] for k in keys)
        ones = np.ones(20)
        nats = [row[name] * ones + hard for name in ("cross_entropy", "cross_entropy_uncoded")]
        sums = [ones, row["bits_per_token_file"] * weights, ones, *nats]
        found[key] = np.stack(sums, 1)
    return found


def test_cells_are_bd_rates_and_turn_with_the_anchor(points):
    (_, matrix) = matrices(points, {})
    curves = {c.name: c for c in curves_of(points) if c.split == 20}
    cell = matrix.cells["klt", "int + zstd"]
    assert cell.percent == pytest.approx(bd_rate(curves["int + zstd"], curves["klt"]).percent)
    other = matrix.cells["int + zstd", "klt"]
    assert (1 + cell.percent / 100) * (1 + other.percent / 100) == pytest.approx(1)
    assert cell.low is None and matrix.resampled == ""


def test_what_documents_have_in_common_cancels(points):
    for noise in (0.1, 0.6):
        matrix = matrices(points, with_documents(points.fillna({"seed": -1}), noise), 40)[1]
        assert matrix.resampled == DOCUMENTS
        cell = matrix.cells["hyperprior", "klt"]
        assert cell.low is None or cell.high - cell.low < 1e-6


def test_files_without_documents_have_none(built):
    assert read_documents(synthetic.evaluations(built)) == {}
