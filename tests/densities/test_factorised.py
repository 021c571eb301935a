import torch

from compressai_oracle import entropy_models
from splitcodec.densities.factorised import DeepFactorised

CHANNELS = 4


def test_it_is_compressais_entropy_bottleneck():
    torch.manual_seed(0)
    ours = DeepFactorised(CHANNELS)
    theirs = entropy_models().EntropyBottleneck(CHANNELS, filters=(3, 3, 3)).eval()
    for name in ("matrices", "biases", "factors"):
        for theirs_one, ours_one in zip(getattr(theirs, name), getattr(ours, name), strict=True):
            ours_one.data.add_(0.3 * torch.randn_like(ours_one))
            theirs_one.data.copy_(ours_one.data)
    # medians at zero: theirs then rounds as ours is given
    theirs.quantiles.data.zero_()
    generator = torch.Generator().manual_seed(1)
    values = (5 * torch.randn(2, 30, CHANNELS, generator=generator)).round()
    with torch.no_grad():
        _, expected = theirs(values.permute(0, 2, 1))
        found = ours.likelihood(values)
    torch.testing.assert_close(
        found.clamp_min(1e-9), expected.permute(0, 2, 1), rtol=1e-4, atol=1e-7
    )


def test_it_starts_as_compressais_at_the_same_spread():
    ours = DeepFactorised(CHANNELS, spread=10.0)
    theirs = entropy_models().EntropyBottleneck(CHANNELS, init_scale=10, filters=(3, 3, 3))
    for theirs_one, ours_one in zip(theirs.matrices, ours.matrices, strict=True):
        torch.testing.assert_close(theirs_one.data, ours_one.data)
