"""What `mlflow.pyfunc.load_model` loads of a registered codec."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitcodec.codecs.base import Codec
from splitcodec.codecs.registry import load_codec


class CodedRepresentation:
    """Sends representations through the bytes of a codec."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def predict(self, representation: np.ndarray, params: Any = None) -> np.ndarray:
        """What is decoded of a sequence's representation (tokens, channels), float32."""
        values = torch.as_tensor(representation, dtype=torch.float32)[None]
        lengths = torch.tensor([values.shape[1]])
        with torch.inference_mode():
            streams = self.codec.compress(values, lengths)
            return self.codec.decompress(streams, lengths)[0].numpy()


def _load_pyfunc(folder: str, model_config: dict[str, Any]) -> CodedRepresentation:
    return CodedRepresentation(load_codec(Path(folder), model_config["coder"])[0])
