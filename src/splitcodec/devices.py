"""Where models and training run."""

import os

import torch


def device() -> torch.device:
    """The GPU of this process, or the processor where there is none.

    torchrun starts a process for each GPU of a machine and numbers them by LOCAL_RANK.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def first_process() -> bool:
    """Of those of a torchrun: the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0
