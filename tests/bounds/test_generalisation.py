import itertools
import math

import pytest
import torch

from splitcodec.bounds.generalisation import (
    gap_with_error,
    held_out_slack,
    pac_slack,
    rate_complexity,
)


def test_the_slack_is_the_textbooks():
    assert pac_slack(0.5, 10.0, 200, 0.05) == pytest.approx(1 + 30 * math.sqrt(math.log(40) / 400))


def test_both_slacks_hold_as_often_as_promised():
    generator = torch.Generator().manual_seed(0)
    misses = 0
    for _ in range(400):
        rates = torch.rand(50, generator=generator).double()
        misses += float(rates.mean()) + held_out_slack(rates, 1.0, 0.2) < 0.5
        assert held_out_slack(rates, 1.0, 0.05) < pac_slack(1.0, 1.0, 50, 0.05)
    assert misses <= 0.2 * 400


def test_the_complexity_lies_above_that_of_a_finite_class():
    """Exact by all signs, over a net of transforms with the stated norm."""
    torch.manual_seed(0)
    documents, tokens, channels, kept, norm = 6, 3, 2, 2, 1.5
    data = torch.randn(documents, tokens, channels).double()
    maps = torch.randn(500, kept, channels).double()
    maps *= norm / maps.flatten(1).norm(dim=1)[:, None, None]
    # a rate with slope 1 by a unit of the latent
    rates = (data @ maps.mT[:, None]).norm(dim=-1).mean(-1)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=documents))).double()
    exact = float((signs @ rates.T / documents).amax(1).mean())
    linear = math.sqrt(float(data.square().sum())) / documents
    bound = rate_complexity(linear, 1.0, norm, kept, tokens)
    assert exact <= bound
    assert bound < 20 * exact


def test_the_gap_has_the_error_of_both_sides():
    torch.manual_seed(0)
    training, evaluation = 5 + torch.randn(400), 7 + 2 * torch.randn(100)
    gap, error = gap_with_error(training, evaluation)
    assert gap == pytest.approx(2, abs=4 * error)
    assert error == pytest.approx(math.sqrt(1 / 400 + 4 / 100), rel=0.2)
