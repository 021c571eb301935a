"""Low-rank adapters: what is kept of them is what they did, in all layouts of a linear layer."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from splitcodec.splitting.changes import LEFT, changed_model
from splitcodec.splitting.model import SplitModel
from splitcodec.training.adapters import adapter_factors, add_adapters

BLOCKS = 12
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, intermediate_size=24),
    "gpt_neox": GPTNeoXConfig(**SMALL, intermediate_size=24),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=BLOCKS, n_head=2, n_positions=16),
}
TOKENS = torch.arange(12)[None]


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("split", [0, 5])
def test_the_kept_factors_change_a_model_as_the_adapters_did(architecture, split):
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(CONFIGS[architecture]).eval().requires_grad_(False)
    original, adapted = SplitModel(plain), changed_copy(plain)
    add_adapters(adapted, adapted.back_blocks(split), rank=3)
    learned = {name for name, p in adapted.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if name in learned:
                parameter.normal_(0, 0.2)
        wanted, before = (m.model(TOKENS).logits for m in (adapted, original))
    factors = adapter_factors(adapted)
    with torch.no_grad():
        found = changed_model(original, factors).model(TOKENS).logits
    assert (wanted - before).abs().max() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    changed = {name.removesuffix(LEFT) for name in factors if name.endswith(LEFT)}
    places = {int(part) for name in changed for part in name.split(".") if part.isdigit()}
    assert places == set(range(split, BLOCKS)), "every block of the back, and no other"


def changed_copy(model):
    """A split model of its own with the same weights."""
    twin = AutoModelForCausalLM.from_config(model.config).eval().requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    return SplitModel(twin)
