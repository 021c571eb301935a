import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from small_world import one_line
from splitcodec.errors import ArchitectureError, InputError, SettingsError
from splitcodec.splitting.model import SplitModel, check_context

SMALL = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=4, intermediate_size=32
)
CONFIGS = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=5),
    # the front's windows are not the back's
    "qwen2": Qwen2Config(
        **SMALL,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=2,
    ),
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=4),
    "gemma": GemmaConfig(**SMALL, num_key_value_heads=2, head_dim=4),
    "gemma2": Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=4, sliding_window=5),
    "phi": PhiConfig(**SMALL, num_key_value_heads=4),
    "opt": OPTConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=32,
        max_position_embeddings=32,
        word_embed_proj_dim=16,
    ),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=4, n_head=4, n_positions=32),
    "gpt_neox": GPTNeoXConfig(**SMALL),
}


def build(config, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.fixture(params=CONFIGS)
def model(request):
    return build(CONFIGS[request.param])


TOKENS = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_split_forward_equals_unsplit_forward_exactly(model):
    expected = model(TOKENS).logits
    split_model = SplitModel(model)
    for split in range(1, split_model.blocks + 1):
        representation = split_model.front(TOKENS, split)
        assert representation.shape == (3, 11, 16)
        assert torch.equal(split_model.back(representation, split), expected)
    assert torch.equal(model(TOKENS).logits, expected), "splitting changed the model"


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 11, [6] + [1] * 5, [4, 3, 4]])
def test_pieces_with_caches_give_what_the_whole_gives(model, pieces):
    split_model = SplitModel(model)
    for split in range(1, split_model.blocks + 1):
        front, back = split_model.cache(), split_model.cache(split)
        whole = split_model.front(TOKENS, split)
        representations, logits = [], []
        for piece in TOKENS.split(pieces, dim=1):
            representations.append(split_model.front(piece, split, front))
            logits.append(split_model.back(representations[-1], split, back))
        torch.testing.assert_close(torch.cat(representations, 1), whole)
        torch.testing.assert_close(torch.cat(logits, 1), split_model.back(whole, split))


@torch.no_grad()
def test_one_pass_gives_every_split(model):
    split_model = SplitModel(model)
    together = split_model.fronts(TOKENS, [1, 3, 4])
    assert set(together) == {1, 3, 4}
    for split, representation in together.items():
        assert torch.equal(representation, split_model.front(TOKENS, split))


@torch.no_grad()
def test_bfloat16_splits_exactly():
    model = build(CONFIGS["llama"], torch.bfloat16)
    split_model = SplitModel(model)
    representation = split_model.front(TOKENS, 2)
    assert torch.equal(split_model.back(representation, 2), model(TOKENS).logits)


@torch.no_grad()
def test_right_padding_leaves_the_tokens_before_it_alone(model):
    split_model = SplitModel(model)
    padded = torch.cat([TOKENS, TOKENS.new_zeros(3, 4)], dim=1)
    torch.testing.assert_close(
        split_model.front(padded, 2)[:, :11], split_model.front(TOKENS, 2), rtol=1e-4, atol=1e-6
    )


def test_gradients_reach_the_representation(model):
    split_model = SplitModel(model)
    representation = split_model.front(TOKENS, 2).detach().requires_grad_()
    split_model.back(representation, 2).logsumexp(-1).sum().backward()
    assert representation.grad.abs().sum() > 0


def test_unknown_architecture_says_what_to_register():
    config = FalconConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ArchitectureError, match=r"FalconModel.*register"):
        SplitModel(build(config))


@pytest.mark.parametrize("split", [0, -1, 5])
def test_split_out_of_range(split):
    with pytest.raises(SettingsError, match="between 1 and 4"):
        SplitModel(build(CONFIGS["llama"])).front(TOKENS, split)


def test_foreign_tokens_are_refused():
    with pytest.raises(InputError, match="vocabulary"):
        SplitModel(build(CONFIGS["llama"])).front(TOKENS + 50, 2)


def test_too_long_sequences_are_refused():
    with pytest.raises(SettingsError, match="context of 32"):
        check_context(SplitModel(build(CONFIGS["gpt2"])), 33)


def test_missing_and_damaged_models_give_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        SplitModel.load(tmp_path)
    build(CONFIGS["llama"]).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="model") as caught:
        SplitModel.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_not_made_up(tmp_path):
    build(CONFIGS["llama"]).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in list(weights)[:2]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"has no weights \S+ and 1 more"):
        SplitModel.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"model_type": "unheard-of", "auto_map": {"AutoModelForCausalLM": "evil.Model"}},
    ],
)
def test_models_that_need_more_than_their_weights_give_one_line(tmp_path, change):
    build(CONFIGS["llama"]).save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('this code was run')")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match="cannot load the model") as caught:
        SplitModel.load(tmp_path)
    assert one_line(caught.value)


def test_embeddings_that_are_projected_are_refused():
    config = CONFIGS["opt"].to_dict() | {"word_embed_proj_dim": 8}
    with pytest.raises(ArchitectureError, match="embeddings of other width"):
        SplitModel(build(OPTConfig(**config)))


def test_what_loads_no_model_does_without_transformers():
    modules = "splitcodec.evaluation.bitstreams, splitcodec.training.run, splitcodec.bounds.measure"
    code = f"import {modules}, sys; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
