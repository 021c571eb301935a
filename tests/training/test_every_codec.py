"""What must hold for the fitting of every codec that starts from the KLT."""

import pytest
import torch

from splitcodec.codecs.catalogue import hyperparameters_of
from splitcodec.errors import InputError
from splitcodec.training.divergence import divergence
from splitcodec.training.fitting import FITTERS, TrainingData
from splitcodec.training.log import Log
from splitcodec.training.sensitivity import measure_sensitivity

SPLIT = 2
RATE_WEIGHT = 0.01
NETWORKS = {"side_channels": 4, "width": 16, "heads": 2}
CONTEXT = NETWORKS | {"side_channels": 0}
CODECS = {
    "factorised": ("factorised", {}),
    "factorised, Fourier": ("factorised", {"density": "fourier"}),
    "hyperprior, mixture": ("hyperprior", NETWORKS | {"family": "mixture"}),
    "hyperprior, Fourier": ("hyperprior", NETWORKS | {"side_density": "fourier"}),
    "direct access": ("direct-access", NETWORKS | {"family": "laplace"}),
    "context alone": ("direct-access", CONTEXT),
    "context with a trellis": ("direct-access", CONTEXT | {"trellis": True}),
    "trellis and levels": ("direct-access", CONTEXT | {"trellis": True, "levels": 6}),
}


@pytest.fixture(scope="module")
def data(world):
    train = world.activations(SPLIT, "train")
    return TrainingData(
        train,
        measure_sensitivity(world.model, {SPLIT: train}, 16, 4, 0)[SPLIT],
        SPLIT,
        references=world.activations(3, "train"),
        validation=(world.activations(SPLIT, "validation"), world.activations(3, "validation")),
        model=world.model,
    )


@pytest.mark.parametrize("name, changes", CODECS.values(), ids=CODECS)
def test_it_learns_in_both_phases_and_codes_what_it_learnt(data, tmp_path, name, changes):
    recipe = dict(steps=40, polish_steps=4, batch_tokens=256, polish_batch_tokens=128)
    settings = hyperparameters_of(name)(**recipe | {"learning_rate": 1e-2} | changes)
    log = Log()
    codec = FITTERS[name](settings, data, [RATE_WEIGHT], 0, tmp_path / "checkpoint", log)
    rates = [entry["bits_per_token"] for entry in log.entries if entry["phase"] == "fit"]
    assert min(rates[-3:]) < rates[0]
    batch = data.validation[0].read(range(4))
    with torch.no_grad():
        estimate = codec(batch.representation, batch.lengths)
    streams = codec.compress(batch.representation, batch.lengths)
    decoded = codec.decompress(streams, batch.lengths)
    assert (decoded - estimate.reconstruction).norm() < 1e-4 * decoded.norm()
    bits = 8 * sum(len(stream) - 8 for stream in streams)  # checksum and the coder's state
    assert bits == pytest.approx(estimate.bits.sum().item(), rel=0.03)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name, changes", CODECS.values(), ids=CODECS)
def test_a_lambda_at_which_nothing_is_coded(data, tmp_path, name, changes):
    settings = hyperparameters_of(name)(steps=2, polish_steps=0, **changes)
    codec = FITTERS[name](settings, data, [1e4], 0, tmp_path / "checkpoint", Log())
    assert codec.kept == 0
    batch = data.validation[0].read([0])
    decoded = codec.decompress(codec.compress(batch.representation, batch.lengths), batch.lengths)
    assert torch.isfinite(decoded).all()


@pytest.mark.parametrize("tokens", [False, True], ids=["alone", "with token ids"])
def test_a_trellis_costs_less_than_the_closed_form_that_it_begins_from(data, tmp_path, tokens):
    """λ · bits + divergence to second order, on sequences that neither has seen."""
    batch = data.validation[0].read(range(4))
    costs = {}
    for name in ("klt", "trellis"):
        settings = hyperparameters_of(name)(tokens=tokens)
        codec = FITTERS[name](settings, data, [RATE_WEIGHT / 10], 0, tmp_path / name, Log())
        codec.attach(data.model.embedding)
        streams = codec.compress(batch.representation, batch.lengths, batch.tokens)
        decoded = codec.decompress(streams, batch.lengths)
        error = ((decoded - batch.representation) * batch.mask[..., None])[:, 1:].double()
        nats = 0.5 * ((error @ data.sensitivity.matrix) * error).sum()
        costs[name] = nats + RATE_WEIGHT / 10 * 8 * sum(map(len, streams))
    assert costs["trellis"] < 0.99 * costs["klt"]


@pytest.mark.parametrize(
    "name, changes, factors",
    [
        ("trellis", {}, [1]),
        (*CODECS["context with a trellis"], [1]),
        (*CODECS["trellis and levels"], [1 / 4, 1 / 2, 1, 2, 4]),
    ],
    ids=["trellis", "context", "one for all"],
)
def test_a_trellis_decodes_as_long_as_validation_likes(data, tmp_path, name, changes, factors):
    """Of one codec for several λ, at all of them, however few sequences there are."""
    fast = {} if name == "trellis" else dict(steps=4, polish_steps=0, batch_tokens=256)
    settings, log = hyperparameters_of(name)(**changes | fast), Log()
    rates = [RATE_WEIGHT * factor for factor in factors]
    codec = FITTERS[name](settings, data, rates, 0, tmp_path / "checkpoint", log)
    tried = [e["loss"] for e in log.entries if e["phase"] == "trellis_validation"]
    assert len(set(tried)) == 4
    sums = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for factor, batch, reference in in_turn(factors, data.validation):
            if len(factors) > 1:
                codec.levels.set_rate(factor)
            found = codec(batch.representation, batch.lengths)
            nats = divergence(
                data.model, SPLIT, found.reconstruction, reference.representation, batch.mask
            )
            tokens = batch.lengths.sum()
            loss = nats * tokens / factor + RATE_WEIGHT * found.bits.sum()
            sums += torch.stack([loss, tokens]).double()
    assert float(sums[0] / sums[1]) == pytest.approx(min(tried), rel=1e-4)


def in_turn(factors, stores):
    for factor in factors:
        for pair in zip(*(store.batches(2) for store in stores), strict=True):
            yield factor, *pair


def test_token_ids_of_every_codec_are_those_of_the_model(data, tmp_path):
    batch = data.validation[0].read(range(2))
    for name in ("klt", "trellis", "direct-access"):
        few = dict(steps=1, polish_steps=0, width=16, heads=2) if name == "direct-access" else {}
        settings = hyperparameters_of(name)(tokens=True, **few)
        codec = FITTERS[name](settings, data, [RATE_WEIGHT], 0, tmp_path / name, Log())
        parts = batch.representation, batch.lengths, batch.tokens
        with torch.no_grad():
            expected = codec(*parts).reconstruction
        decoded = codec.decompress(codec.compress(*parts), batch.lengths)
        assert (decoded - expected).norm() < 1e-4 * decoded.norm()
        beyond = batch.tokens - 1 - batch.tokens.min()
        with pytest.raises(InputError, match="token ids go from -1 to"):
            codec.compress(*parts[:2], beyond)
