import pytest
import torch

from small_world import save_for
from splitcodec.activations.moments import moments_of, sample_tokens
from splitcodec.codecs.hyperparameters import KltHyperparameters
from splitcodec.codecs.klt import fit_klt
from splitcodec.inference.examples import Extent, examples
from splitcodec.inputs.tokenisers import Prompts


@pytest.fixture(scope="module")
def found(examples_of):
    return examples_of()


@pytest.fixture(scope="module")
def examples_of(world, tmp_path_factory):
    train = world.activations(2, "train")
    identity = torch.eye(32, dtype=torch.float64)
    sample = sample_tokens(train, 2000, 0)
    codec = fit_klt(KltHyperparameters(), moments_of(train), identity, sample, 0.001)
    directory = save_for(codec, train, tmp_path_factory.mktemp("codec") / "klt")
    prompts = Prompts.load(world.model_directory)
    store = world.activations(2, "evaluation")
    return lambda: examples(world.model, store, directory, prompts, Extent(4, 20, 8, 5))


def test_channels_and_positions_add_up_to_the_same_bits(found):
    by_position = sum(found["positions"]) / len(found["positions"])
    assert by_position > 0
    assert sum(found["channels"]["latent"]) == pytest.approx(by_position, rel=0.1)


def test_the_passage_says_each_token(found):
    passage = found["passage"]
    assert {len(passage[k]) for k in ("text", "bits", "surprise_bits", "kl")} == {
        len(passage["text"])
    }
    assert passage["surprise_bits"][0] is None
    assert all(value > 0 for value in passage["surprise_bits"][1:])


def test_a_short_context_leaves_room_to_go_on(world, examples_of, monkeypatch):
    monkeypatch.setattr(world.model.model.config, "max_position_embeddings", 7)
    assert examples_of()["continuation"]["tokens"] == 1


def test_the_continuation_counts_agreeing_tokens(found):
    text = found["continuation"]
    assert 0 <= text["same_tokens"] <= text["tokens"] <= 5
    assert text["bits_per_token"] > 0
