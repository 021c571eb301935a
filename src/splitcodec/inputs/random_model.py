"""Small randomly initialised models with a byte-level tokeniser: for tests of the pipeline."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from splitcodec.errors import InputError
from splitcodec.settings import RandomSource

START = "<|endoftext|>"
# Wider than the usual 0.02, so that so small a model's predictions differ between contexts.
_INITIALIZER_RANGE = 0.15


def build_random_model(source: RandomSource, directory: Path) -> None:
    """Write a model of `source` to `directory`: the same seed gives the same bytes.

    Raises InputError when the channels cannot be shared among the heads.
    """
    # 8: the least head of GPT-NeoX, which rotates a quarter of it in pairs
    if source.channels % (8 * source.heads):
        raise InputError(
            f"channels {source.channels} of the random model is no multiple of 8 times heads "
            f"({8 * source.heads})"
        )
    tokeniser = byte_tokeniser()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        model = AutoModelForCausalLM.from_config(_config(source, tokeniser))
    model.save_pretrained(directory)
    tokeniser.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)


def byte_tokeniser() -> PreTrainedTokenizerFast:
    """256 tokens, one a byte, and one that starts and ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokeniser = Tokenizer(BPE({symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokeniser, bos_token=START, eos_token=START)


def _config(source: RandomSource, tokeniser: PreTrainedTokenizerFast) -> PreTrainedConfig:
    common = {
        "vocab_size": len(tokeniser),
        "bos_token_id": tokeniser.bos_token_id,
        "eos_token_id": tokeniser.eos_token_id,
        "initializer_range": _INITIALIZER_RANGE,
    }
    if source.architecture == "gpt2":
        return GPT2Config(
            n_embd=source.channels,
            n_layer=source.blocks,
            n_head=source.heads,
            n_positions=source.context,
            **common,
        )
    config = {"llama": LlamaConfig, "gpt_neox": GPTNeoXConfig}[source.architecture]
    return config(
        hidden_size=source.channels,
        num_hidden_layers=source.blocks,
        num_attention_heads=source.heads,
        intermediate_size=4 * source.channels,
        max_position_embeddings=source.context,
        **common,
    )
