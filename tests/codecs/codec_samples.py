"""Codecs fitted to a known Gaussian representation, without a model and without training."""

from functools import partial

import torch

from small_world import gaussian_covariance
from splitcodec.activations.moments import Moments, Sample
from splitcodec.codecs.catalogue import hyperparameters_of
from splitcodec.codecs.conditional import ConditionalCodec
from splitcodec.codecs.direct_access import DirectAccess
from splitcodec.codecs.factorised import Factorised
from splitcodec.codecs.hyperparameters import (
    FactorisedHyperparameters,
    KltHyperparameters,
    TrellisHyperparameters,
)
from splitcodec.codecs.hyperprior import Hyperprior
from splitcodec.codecs.klt import Klt, fit_klt
from splitcodec.codecs.levels import Known, TokenWeights
from splitcodec.codecs.trellis import Trellis

CHANNELS = 24
VOCABULARY = 300
COVARIANCE = 4 * gaussian_covariance(CHANNELS, seed=1, decay=0.8)
SENSITIVITY = gaussian_covariance(CHANNELS, seed=2, decay=0.7)
MEAN = torch.linspace(-3, 3, CHANNELS, dtype=torch.float64)
FIRST_MEAN = MEAN + 1_000
RATE_WEIGHT = 0.003


def representations(batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """(batch, tokens, channels) float32; the first token is constant, as after a start token."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(batch, tokens, CHANNELS, generator=generator, dtype=torch.float64)
    values = white @ torch.linalg.cholesky(COVARIANCE).T + MEAN
    values[:, 0] = FIRST_MEAN
    return values.float()


TOKEN_WEIGHTS = TokenWeights(
    centre=MEAN,
    spread=COVARIANCE.diagonal().sqrt(),
    weight=torch.linspace(-0.5, 0.5, CHANNELS, dtype=torch.float64),
    offset=torch.tensor(-0.3, dtype=torch.float64),
)
"""Tokens that matter more or less, whichever direction they point to."""


def fitted_klt(rate_weight: float = RATE_WEIGHT, levels: int = 0) -> Klt:
    moments = Moments(MEAN, FIRST_MEAN, COVARIANCE, tokens=4096, sinks=0)
    sample = Sample(representations(1, 4097)[0, 1:])
    parts = KltHyperparameters(levels=levels), moments, SENSITIVITY, sample
    return fit_klt(*parts, rate_weight, TOKEN_WEIGHTS).eval()


def with_tokens() -> Klt:
    """A closed-form codec that sends token ids; the map from the head's rows is arbitrary."""
    plain = fitted_klt(0.03)
    codec = Klt("klt", CHANNELS, KltHyperparameters(tokens=True), plain.kept, VOCABULARY)
    plain.token_map, plain.row_mean = torch.zeros(CHANNELS, CHANNELS), torch.zeros(CHANNELS)
    with torch.no_grad():
        for name in ("mean", "first_mean", "analysis", "synthesis", "scale_index"):
            getattr(codec, name).copy_(getattr(plain, name))
        codec.token_map.copy_(0.1 * torch.eye(CHANNELS))
        codec.token_density.count(torch.arange(4000) ** 2 % VOCABULARY)
    codec.update()
    return codec.eval()


def fitted_trellis(rate_weight: float = RATE_WEIGHT) -> Trellis:
    """The closed form's channels with a trellis."""
    klt = fitted_klt(rate_weight)
    codec = Trellis("trellis", CHANNELS, TrellisHyperparameters(), klt.kept)
    codec.start_from(klt)
    codec.fit(representations(1, 4097)[0, 1:] - codec.mean, SENSITIVITY, rate_weight)
    codec.update()
    return codec.eval()


def fitted_factorised(**changes) -> Factorised:
    """Started from the KLT; the densities have a shape, though nothing learnt."""
    torch.manual_seed(0)
    klt = fitted_klt()
    codec = Factorised("factorised", CHANNELS, FactorisedHyperparameters(**changes), klt.kept)
    codec.start_from(klt)
    codec.update()
    return codec.eval()


def fitted_conditional(
    codec_class: type[ConditionalCodec], name: str, seed: int = 0, place: str = "cpu", **changes
) -> ConditionalCodec:
    """Started from the KLT, with networks that say something, though nothing learnt."""
    torch.manual_seed(seed)
    small = hyperparameters_of(name)(**dict(side_channels=5, width=16, heads=2) | changes)
    klt = fitted_klt(levels=small.levels)
    codec = codec_class(name, CHANNELS, small, klt.kept)
    codec.start_from(klt)
    with torch.no_grad():
        for parameter in codec.prediction[-1].parameters():
            parameter.normal_(0, 0.05)
        if getattr(codec, "history", None) is not None:
            codec.history.normal_(0, 0.1)
            codec.sink_energy.copy_(100 * COVARIANCE.trace())
        if codec.side_analysis:
            codec.side_analysis[-1].weight.mul_(4)
    codec.update()
    if codec.eval().to(place).has_trellis:
        put_trellis(codec, place)
    return codec


def put_trellis(codec: DirectAccess, place: str = "cpu") -> None:
    """From a few sequences."""
    data = representations(8, 200, seed=20).to(place)
    where = torch.ones(data.shape[:2], dtype=torch.bool, device=place)
    where[:, 0] = False
    means, offsets = codec.means(None, data.shape[1])
    known = Known(offsets, codec.choose_levels(data))
    codec.put_trellis(data - means, known, where, SENSITIVITY.to(place), RATE_WEIGHT)


fitted_hyperprior = partial(fitted_conditional, Hyperprior, "hyperprior")
fitted_direct_access = partial(fitted_conditional, DirectAccess, "direct-access")

LEARNED = {
    "klt": fitted_klt,
    "trellis": fitted_trellis,
    "factorised": fitted_factorised,
    "factorised-fourier": partial(fitted_factorised, density="fourier"),
    "hyperprior": fitted_hyperprior,
    "hyperprior-fourier-mixture": partial(
        fitted_hyperprior, side_density="fourier", family="mixture"
    ),
    "direct-access": partial(fitted_direct_access, layers=2),
    "direct-access-history": partial(fitted_direct_access, history=True),
    "klt-levels": partial(fitted_klt, levels=5),
    "hyperprior-levels": partial(fitted_hyperprior, levels=5),
    "direct-access-levels": partial(fitted_direct_access, levels=5, history=True),
    "direct-access-trellis": partial(
        fitted_direct_access, trellis=True, side_channels=0, levels=4, history=True
    ),
    "direct-access-trellis-side": partial(fitted_direct_access, trellis=True),
    "direct-access-alone": partial(fitted_direct_access, side_channels=0, family="logistic"),
}


def divergence_of(error: torch.Tensor) -> float:
    """Mean ½ eᵀ G e over the last dimension, nats."""
    error = error.double()
    return 0.5 * ((error @ SENSITIVITY) * error).sum(-1).mean().item()
