"""Which kind of split model a directory holds: what its inputs are says so.

A model that reads text has a tokeniser beside it, one that reads images an image processor.
"""

from pathlib import Path

from splitcodec.splitting.images import SplitImageModel
from splitcodec.splitting.model import SplitModel

IMAGE_PROCESSOR = "preprocessor_config.json"


def load_split_model(
    directory: Path, dtype: str = "float32", device: str = "cpu", patch: int = 1
) -> SplitModel:
    """The model of a directory in Hugging Face format; raises InputError if it cannot be loaded.

    `patch`: positions a side of a token, where representations are feature maps.
    """
    if not (directory / IMAGE_PROCESSOR).is_file():
        return SplitModel.load(directory, dtype, device)
    model = SplitImageModel.load(directory, dtype, device)
    model.patch = patch
    return model
