"""GGUF files: one file with quantised weights and tokeniser, converted to the common form."""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from splitcodec.errors import InputError, reason_of
from splitcodec.pretrained import read_pretrained


def convert(file: Path, directory: Path) -> None:
    """Write the model in `file` to `directory` as config.json, model.safetensors and tokeniser.

    Weights are the exact dequantised values in float32. Raises InputError when transformers cannot
    read the file.
    """
    try:
        tokeniser = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised = read_pretrained(
            AutoModelForCausalLM, file.parent, gguf_file=file.name, dtype=torch.float32
        )
    except Exception as error:
        # gguf raises bare ValueError, IndexError and AssertionError on damaged files
        raise InputError(
            f"{file.name} cannot be read as a GGUF model: {reason_of(error)}"
        ) from None
    _plain(quantised).save_pretrained(directory, max_shard_size="1TB")
    tokeniser.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)


def _plain(quantised: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that does not know it was quantised.

    transformers refuses to save, or to change the dtype of, a model that was read from GGUF.
    """
    config = copy.deepcopy(quantised.config)
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = quantised.generation_config
    return model
