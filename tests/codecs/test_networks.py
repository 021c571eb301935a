import pytest
import torch

from splitcodec.codecs.networks import CausalNetwork


@pytest.fixture(params=[0, 1, 3])
def network(request):
    torch.manual_seed(0)
    return CausalNetwork(5, 7, width=16, layers=request.param, heads=2).double()


def test_steps_give_what_the_whole_sequence_gives(network):
    inputs = torch.randn(3, 11, 5, dtype=torch.float64)
    memories = network.memories(3, 11)
    with torch.no_grad():
        whole = network(inputs)
        steps = [network.step(inputs[:, token], memories) for token in range(11)]
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-12, atol=1e-12)


def test_pieces_give_what_the_whole_sequence_gives(network):
    inputs = torch.randn(3, 11, 5, dtype=torch.float64)
    memories = network.memories(3, 2)  # which must grow
    with torch.no_grad():
        whole = network(inputs)
        pieces = [network(piece, memories) for piece in inputs.split([4, 1, 6], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-12, atol=1e-12)


def test_some_places_give_what_the_whole_sequence_gives(network):
    inputs = torch.randn(3, 11, 5, dtype=torch.float64)
    rows, tokens = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 7, 1, 2, 10])
    with torch.no_grad():
        some = network.at(inputs, rows, tokens)
        torch.testing.assert_close(some, network(inputs)[rows, tokens], rtol=1e-12, atol=1e-12)


def test_an_output_depends_on_no_later_token(network):
    inputs = torch.randn(1, 9, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(network(inputs)[0, 4].sum(), inputs)
    assert slope[0, 4].any()
    assert not slope[0, 5:].any()


def test_outputs_start_at_zero_if_asked():
    network = CausalNetwork(5, 7, width=16, layers=1, heads=2, zero=True)
    assert not network(torch.randn(2, 3, 5)).any()
