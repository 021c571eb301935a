import pytest
import torch
from transformers import AutoModelForCausalLM

from splitcodec.activations.extraction import extract
from splitcodec.activations.store import Activations, ActivationWriter
from splitcodec.errors import InputError, SettingsError
from splitcodec.files import sha256_of_file


def test_stores_hold_the_fronts_of_every_sequence(world, tmp_path):
    outputs = {split: tmp_path / f"{split}.parquet" for split in (1, 2, 3)}
    extract(world.model, world.tokens("evaluation"), outputs, torch.float32, batch_sequences=3)
    stores = {split: Activations(path) for split, path in outputs.items()}
    table = world.token_table("evaluation")
    for number, sequence in enumerate(table.sequences):
        tokens = torch.from_numpy(sequence)[None]
        fronts = world.model.fronts(tokens, [1, 2, 3])
        for split, front in fronts.items():
            batch = stores[split].read([number])
            assert batch.documents == [table.documents[number]]
            assert torch.equal(batch.tokens, tokens)
            torch.testing.assert_close(batch.representation, front, rtol=1e-4, atol=1e-5)


def test_final_store_and_head_give_the_uncoded_logits(world, tmp_path):
    outputs = {world.model.blocks: tmp_path / "final.parquet"}
    extract(world.model, world.tokens("evaluation"), outputs, torch.float32, batch_sequences=1)
    final = Activations(outputs[world.model.blocks])
    whole = AutoModelForCausalLM.from_pretrained(world.model_directory, dtype=torch.float32)
    for number in range(len(final)):
        batch = final.read([number])
        with torch.no_grad():
            found = world.model.back(batch.representation, world.model.blocks)
            torch.testing.assert_close(found, whole(batch.tokens).logits, rtol=1e-5, atol=1e-5)


def test_the_store_says_where_it_comes_from(world):
    tokens = world.token_table("train").metadata
    for split in (1, 2, 3):
        meaning = world.activations(split, "train").metadata
        assert meaning["split"] == split
        assert meaning["data_hash"] == sha256_of_file(world.tokens("train"))
        for key in ("model", "model_hash", "tokeniser_hash", "partition", "sequence_length"):
            assert meaning[key] == tokens[key]
        assert meaning["dtype"] == "float16"


def test_the_same_input_gives_the_same_bytes(world, tmp_path):
    out = tmp_path / "again.parquet"
    extract(world.model, world.tokens("validation"), {2: out}, torch.float16, batch_sequences=4)
    assert out.read_bytes() == world.store(2, "validation").read_bytes()


def test_an_error_half_way_leaves_no_file(world, tmp_path, monkeypatch):
    calls = []
    fronts = world.model.fronts

    def failing(tokens, splits):
        calls.append(tokens)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return fronts(tokens, splits)

    monkeypatch.setattr(world.model, "fronts", failing)
    outputs = {split: tmp_path / f"split{split}" / "train.parquet" for split in (1, 2)}
    with pytest.raises(RuntimeError):
        extract(world.model, world.tokens("train"), outputs, torch.float16, batch_sequences=2)
    assert len(calls) == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_error_spares_the_files_of_an_earlier_run(world, tmp_path, monkeypatch):
    out = tmp_path / "train.parquet"
    out.write_text("of an earlier run")
    monkeypatch.setattr(
        world.model, "fronts", lambda tokens, splits: {1: torch.full((4, 99, 32), torch.inf)}
    )
    with pytest.raises(InputError, match="not finite"):
        extract(world.model, world.tokens("train"), {1: out}, torch.float16, batch_sequences=4)
    assert out.read_text() == "of an earlier run"
    assert list(tmp_path.iterdir()) == [out]


def test_a_store_that_cannot_be_finished_leaves_none_of_the_others(world, tmp_path, monkeypatch):
    finish = ActivationWriter.__exit__

    def full(writer, *error):
        finish(writer, *error)
        if writer._schema.metadata and b'"split": 1' in writer._schema.metadata[b"splitcodec"]:
            raise OSError("no space left on the disk")

    monkeypatch.setattr(ActivationWriter, "__exit__", full)
    outputs = {split: tmp_path / f"{split}.parquet" for split in (1, 2)}
    with pytest.raises(OSError, match="no space"):
        extract(world.model, world.tokens("validation"), outputs, torch.float16, batch_sequences=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", [0, 4])
def test_a_split_out_of_range_leaves_nothing(world, tmp_path, split):
    outputs = {1: tmp_path / "a" / "1.parquet", split: tmp_path / "a" / "x.parquet"}
    with pytest.raises(SettingsError, match=f"split {split} is out of range"):
        extract(world.model, world.tokens("train"), outputs, torch.float16, batch_sequences=4)
    assert list(tmp_path.iterdir()) == []
