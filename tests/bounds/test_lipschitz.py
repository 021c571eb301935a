import math

import pytest
import torch
from torch.nn import functional

from splitcodec.bounds.lipschitz import (
    certified_bound,
    gaussian_slope,
    rate_function,
    spectral_norm,
)
from splitcodec.codecs.networks import CausalNetwork
from splitcodec.codecs.registry import build_codec
from splitcodec.densities.location_scale import Gaussian


def test_a_linear_map_has_its_spectral_norm():
    matrix = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)).double()
    found = spectral_norm(lambda x: x @ matrix.T, torch.zeros(3, 12).double())
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert found.tolist() == pytest.approx([truth] * 3)


def test_every_sample_has_the_norm_of_its_own_jacobian():
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).double()

    def function(x):
        return torch.tanh(x @ mixing) * x.square().sum(-1, keepdim=True)

    found = spectral_norm(function, inputs)
    for row, value in zip(inputs, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(function, row[None])[0, :, 0]
        assert float(value) == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.filterwarnings("error")
def test_the_certified_bound_lies_above_every_measured_norm(layers):
    torch.manual_seed(0)
    network = CausalNetwork(4, 6, 8, layers, 2).double()
    inputs = 3 * torch.randn(8, 5, 4).double()
    found = spectral_norm(network, inputs)
    assert 0 < float(found.max()) < certified_bound(network, 5)


def test_the_attention_bound_holds_where_normalisation_does_not_blow_it_up():
    """With inputs of large spread LayerNorm's slope is small, so compare attention alone."""
    torch.manual_seed(1)
    tokens, width, heads = 6, 8, 2
    network = CausalNetwork(width, width, width, 1, heads).double()
    block = network[1]
    normalised = functional.layer_norm(torch.randn(16, tokens, width).double(), (width,))

    def attention(values):
        parts = block.query_key_value(values).unflatten(-1, (3, heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return block.mixed(mixed.transpose(1, 2).flatten(-2))

    from splitcodec.bounds.lipschitz import _attention_bound, _norm_slope

    measured = float(spectral_norm(attention, normalised).max())
    alone = (_attention_bound(block, tokens) - 1) / _norm_slope(block.attention_norm)
    assert measured < alone < 60 * measured


def test_the_slope_of_a_rounded_gaussian_is_its_steepest():
    scales = torch.tensor([0.11, 0.5, 2.0, 20.0])
    slopes = gaussian_slope(scales)
    values = torch.linspace(-200, 200, 100_001).double()
    for scale, slope in zip(scales, slopes, strict=True):
        bits = Gaussian().bits(values, scale.double().expand_as(values))
        steepest = float((bits.diff() / values.diff()).abs().max())
        assert steepest <= float(slope) * 1.001
        assert steepest > 0.8 * float(slope)
    # wide Gaussians: d/dx x² / (2σ² ln 2) up to where 24 bits are reached
    assert float(slopes[3]) == pytest.approx(
        math.sqrt(2 * 24 * math.log(2)) / 20 / math.log(2), rel=0.15
    )


NETWORKS = {"width": 16, "side_channels": 4}
CODECS = {name: (name, {}) for name in ("klt", "trellis", "factorised")}
CODECS |= {name: (name, NETWORKS) for name in ("hyperprior", "direct-access")}
CODECS["context with a trellis"] = ("direct-access", NETWORKS | {"trellis": True})
CODECS["factorised by Fourier"] = ("factorised", {"density": "fourier"})
CODECS["hyperprior by Fourier"] = ("hyperprior", NETWORKS | {"side_density": "fourier"})


@pytest.mark.parametrize("name, changes", CODECS.values(), ids=CODECS)
def test_the_spectral_norm_of_every_codecs_rate_is_that_of_its_jacobian(name, changes):
    torch.manual_seed(0)
    codec = build_codec(name, 6, changes, kept=6)
    with torch.no_grad():
        codec.analysis.copy_(2 * torch.randn(6, 6))
        codec.synthesis.copy_(torch.linalg.inv(codec.analysis))
        if name in ("klt", "trellis"):
            codec.scale_index.fill_(30)
        for parameter in codec.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    function = rate_function(codec)
    inputs = torch.randn(2, 5, 6)
    found = spectral_norm(function, inputs)
    for number, sample in enumerate(inputs):
        jacobian = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], sample)
        largest = float(torch.linalg.matrix_norm(jacobian.flatten(1), 2))
        assert 0 < largest == pytest.approx(float(found[number]), rel=1e-4)
