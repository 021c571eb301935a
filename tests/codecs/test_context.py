"""Token ids and history: what the receiver can predict is not coded."""

import pytest
import torch
from codec_samples import CHANNELS, SENSITIVITY

from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.activations.store import Activations, ActivationWriter
from splitcodec.codecs.direct_access import DirectAccess
from splitcodec.codecs.hyperparameters import DirectAccessHyperparameters, KltHyperparameters
from splitcodec.codecs.klt import Klt, _wiener, fit_klt
from splitcodec.errors import BitstreamError, InputError

VOCABULARY = 60
RATE_WEIGHT = 0.003


@pytest.fixture(scope="module")
def embedding():
    rows = torch.randn(VOCABULARY, CHANNELS, generator=torch.Generator().manual_seed(5))
    return rows - rows.mean(0)


@pytest.fixture(scope="module")
def store(tmp_path_factory, embedding):
    """y = 0.9 y(before) + what the token says + noise; the first of each sequence is a sink."""
    generator = torch.Generator().manual_seed(6)
    says = torch.randn(CHANNELS, CHANNELS, generator=generator) / 2
    path = tmp_path_factory.mktemp("context") / "train.parquet"
    meaning = {"split": 1, "partition": "train", "model": "none", "data_hash": "", "model_hash": ""}
    with ActivationWriter(path, CHANNELS, torch.float32, meaning) as writer:
        for sequence in range(40):
            tokens = torch.randint(VOCABULARY, (64,), generator=generator)
            tokens[0] = 0
            rows = [torch.full((CHANNELS,), 5000.0)]
            state = torch.zeros(CHANNELS)
            for token in tokens[1:]:
                noise = torch.randn(CHANNELS, generator=generator)
                state = 0.9 * state + embedding[token] @ says.T + 0.5 * noise
                rows.append(state + 3)
            writer.write(f"document {sequence}", sequence, tokens, torch.stack(rows))
    return Activations(path)


def fitted(store, embedding, tokens=False, history=False):
    """The closed form alone, with the context that is asked for."""
    kind = DirectAccessHyperparameters if history else KltHyperparameters
    more = {"history": True, "side_channels": 0, "width": 8, "heads": 2} if history else {}
    hyperparameters = kind(tokens=tokens, **more)
    embedding = embedding if tokens else None
    moments = moments_of(store, history=history, embedding=embedding)
    sample = sample_tokens(store, 2000, 0, moments, embedding)
    klt = fit_klt(hyperparameters, moments, SENSITIVITY, sample, RATE_WEIGHT)
    if history:
        shape = Klt.shape_of_state(klt.state_dict())
        codec = DirectAccess("direct-access", CHANNELS, hyperparameters, **shape)
        codec.start_from(klt)
        codec.update()
    else:
        codec = klt
    if tokens:
        codec.attach(embedding)
    return codec.eval()


def rate_and_error(codec, store):
    batch = store.read(range(8))
    with torch.no_grad():
        estimate = codec(batch.representation, batch.lengths, batch.tokens)
    error = (estimate.reconstruction - batch.representation)[:, 1:].double()
    distortion = 0.5 * ((error @ SENSITIVITY) * error).sum(-1).mean()
    return float(estimate.bits.sum() / batch.lengths.sum()), float(distortion)


@pytest.mark.parametrize("tokens, history", [(True, False), (False, True), (True, True)])
def test_streams_decode_to_the_estimate_at_its_rate(store, embedding, tokens, history):
    codec, batch = fitted(store, embedding, tokens, history), store.read([3, 1, 4])
    streams = codec.compress(batch.representation, batch.lengths, batch.tokens)
    decoded = codec.decompress(streams, batch.lengths)
    with torch.no_grad():
        estimate = codec(batch.representation, batch.lengths, batch.tokens)
    torch.testing.assert_close(decoded, estimate.reconstruction, rtol=1e-4, atol=1e-3)
    overhead = 8 * (4 + 4) * len(streams)  # checksum and the coder's state
    assert sum(map(len, streams)) * 8 == pytest.approx(
        float(estimate.bits.sum()), rel=0.01, abs=overhead
    )


def test_history_saves_bits_and_token_ids_beside_it_more_than_they_cost(store, embedding):
    def cost(**context):
        rate, distortion = rate_and_error(fitted(store, embedding, **context), store)
        return rate + distortion / RATE_WEIGHT

    plain, by_history = cost(), cost(history=True)
    both = cost(tokens=True, history=True)
    assert by_history < plain - 3
    assert both < by_history - 3


def test_prediction_tends_to_the_process_as_noise_vanishes(store, embedding):
    moments = moments_of(store, history=True, embedding=embedding)
    none = torch.zeros(CHANNELS, CHANNELS, dtype=torch.float64)
    prediction, residual = _wiener(moments, none)
    torch.testing.assert_close(
        prediction[:, :CHANNELS], 0.9 * torch.eye(CHANNELS).double(), atol=0.06, rtol=0
    )
    torch.testing.assert_close(
        residual.diagonal(), torch.full((CHANNELS,), 0.25).double(), atol=0.04, rtol=0
    )


def test_prediction_trusts_a_noisy_past_less(store):
    moments = moments_of(store, history=True)
    noise = 100 * moments.covariance
    prediction, residual = _wiener(moments, noise)
    assert prediction.abs().max() < 0.05
    torch.testing.assert_close(residual, moments.covariance, rtol=0.05, atol=0.05)


def test_a_sink_tells_nothing_about_the_next_token(store, embedding):
    codec = fitted(store, embedding, history=True)
    earlier = torch.zeros(1, 3, CHANNELS)
    earlier[0, 0] = 1e5
    earlier[0, 1] = 1.0
    predicted = codec._from_history(earlier)
    assert not predicted[0, :2].any()
    assert predicted[0, 2].any()


def test_a_sink_in_the_middle_survives(store, embedding):
    codec, batch = fitted(store, embedding, history=True), store.read([0])
    representation = batch.representation.clone()
    representation[0, 20] = 4000.0
    streams = codec.compress(representation, batch.lengths)
    decoded = codec.decompress(streams, batch.lengths)
    apart = (decoded - representation)[0].norm(dim=-1) / representation[0].norm(dim=-1)
    assert apart[20] < 0.2
    assert apart[21:30].max() < 1


def test_token_ids_need_the_model(store, embedding):
    codec, batch = fitted(store, embedding, tokens=True), store.read([0])
    with pytest.raises(InputError, match="not of the codec's model"):
        codec.attach(embedding[:-1])
    codec._embedding = None
    with pytest.raises(InputError, match="--model"):
        codec.compress(batch.representation, batch.lengths, batch.tokens)


def test_changed_token_ids_are_noticed(store, embedding):
    codec, batch = fitted(store, embedding, tokens=True), store.read([0])
    (stream,) = codec.compress(batch.representation, batch.lengths, batch.tokens)
    for place in range(-30, -8, 3):  # what is decoded first lies at the end
        broken = bytearray(stream)
        broken[place] ^= 0x40
        with pytest.raises(BitstreamError):
            codec.decompress([bytes(broken)], batch.lengths)
