"""Kullback–Leibler divergence between the uncoded and the coded model, token by token.

The vocabulary makes logits by far the largest tensors, so head and divergence run over a few
hundred tokens at a time, recomputed in the backward pass.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from splitcodec.splitting.model import SplitModel

CHUNK = 256
"""Tokens whose logits are held at once."""


def divergence(
    model: SplitModel, split: int, coded: Tensor, reference: Tensor, mask: Tensor
) -> Tensor:
    """Mean KL(uncoded ‖ coded) in nats a token.

    `coded` (batch, tokens, channels) at `split`; `reference` at the last block, uncoded; `mask`
    (batch, tokens) bool. Differentiable in `coded`.
    """
    mask = mask.to(model.device)
    coded_final = model.final_states(coded, split)[mask]
    with torch.no_grad():
        reference_final = model.final_states(reference, model.blocks)[mask]
    total = coded_final.new_zeros((), dtype=torch.float32)
    for part, target in zip(coded_final.split(CHUNK), reference_final.split(CHUNK), strict=True):
        total = total + checkpoint(_chunk_divergence, model, part, target, use_reentrant=False)
    return total / mask.sum()


def _chunk_divergence(model: SplitModel, coded: Tensor, reference: Tensor) -> Tensor:
    with torch.no_grad():
        target = model.head(reference).float().log_softmax(-1)
    estimate = model.head(coded).float().log_softmax(-1)
    return functional.kl_div(estimate, target, log_target=True, reduction="sum")
