import json

import pytest
import torch

from small_world import one_line
from splitcodec.errors import InputError, SettingsError
from splitcodec.inputs.models import fetch_model, read_identity
from splitcodec.inputs.tables import open_table, read_columns
from splitcodec.inputs.tokens import partition_texts, read_tokens, tokenise
from splitcodec.settings import Partition, TrainedSource
from splitcodec.splitting.model import SplitModel
from splitcodec.training import loop
from splitcodec.training.log import Log
from splitcodec.training.pretraining import pretrain

SMALL = dict(kind="trained", blocks=2, channels=16, heads=2, context=32, vocabulary=280)
SMALL |= dict(steps=30, sequences=8, batch_sequences=4, learning_rate=1e-2, warm_up_steps=3)
TRAIN = Partition(documents=["train-*"], sequences=1)
OTHERS = {"evaluation": Partition(documents=["evaluation-*"], sequences=1)}


def make(world, out, **changes):
    source = TrainedSource(**SMALL | changes)
    log = Log(out.with_suffix(".jsonl"))
    arguments = (world.documents, TRAIN, OTHERS, out.with_suffix(".checkpoint"), out, log)
    pretrain(source, *arguments)
    return out


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    return make(world, tmp_path_factory.mktemp("pretrained") / "model")


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_it_is_a_model_like_any_other(made, world, tmp_path):
    model = SplitModel.load(made)
    assert (model.blocks, model.channels, model.vocabulary) == (2, 16, 280)
    assert read_identity(made)["source"]["steps"] == 30
    tokenise(world.documents, made, "evaluation", OTHERS["evaluation"], {"train": TRAIN}, 32, True,
             tmp_path / "tokens")  # fmt: skip
    tokens = torch.from_numpy(read_tokens(tmp_path / "tokens").sequences[0])[None]
    split = model.back(model.front(tokens, 1), 1)
    torch.testing.assert_close(split, model.model(tokens).logits)


def test_the_loss_falls_and_is_logged_with_the_model(made):
    lines = (made / "training.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < losses[0] - 0.5
    assert sorted(path.name for path in made.parent.iterdir()) == ["model"]


def test_the_tokeniser_says_every_text(made):
    from transformers import AutoTokenizer

    tokeniser = AutoTokenizer.from_pretrained(made, local_files_only=True)
    text = "Any text, with ü and 漢字\n"
    assert tokeniser.decode(tokeniser(text)["input_ids"]) == text


def test_only_the_training_partition_is_read(world):
    texts = list(partition_texts(world.documents, "train", TRAIN, OTHERS))
    table = read_columns(
        world.documents, open_table(world.documents, "text")[0], ["document", "text"]
    )
    pairs = zip(table["document"].to_pylist(), table["text"].to_pylist(), strict=True)
    assert texts == [text for name, text in pairs if name.startswith("train-")]


def test_a_killed_run_goes_on_to_the_same_bytes(made, world, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SHARE", float("inf"))
    save = loop.Loop._save

    def save_and_die(self, number, optimiser, state):
        save(self, number, optimiser, state)
        if state.step == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Loop, "_save", save_and_die)
        make(world, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert weights(make(world, tmp_path / "model")) == weights(made)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_seed_gives_another_model(made, world, tmp_path):
    other = make(world, tmp_path / "model", seed=1)
    assert weights(other) != weights(made)
    assert (other / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()


def test_the_layout_of_pythia(world, tmp_path):
    directory = make(world, tmp_path / "model", architecture="gpt_neox", steps=2, warm_up_steps=1)
    model = SplitModel.load(directory)
    assert model.model.config.model_type == "gpt_neox"
    assert (model.blocks, model.channels, model.vocabulary) == (2, 16, 280)
    tokens = torch.arange(20)[None]
    whole = model.model(tokens).logits
    assert torch.equal(model.back(model.front(tokens, 1), 1), whole)


def test_too_little_text_for_the_vocabulary(world, tmp_path):
    with pytest.raises(InputError, match="lower vocabulary") as caught:
        make(world, tmp_path / "model", vocabulary=50_000)
    assert one_line(caught.value)
    assert not (tmp_path / "model").exists()


def test_partitions_that_share_documents_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.setitem(OTHERS, "evaluation", Partition(share=(0, 1), sequences=1))
    with pytest.raises(SettingsError, match="share"):
        make(world, tmp_path / "model")


def test_it_cannot_be_fetched(tmp_path):
    with pytest.raises(InputError, match="make it by pretrain"):
        fetch_model(TrainedSource(**SMALL), tmp_path / "model")
