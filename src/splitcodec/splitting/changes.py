"""What training has changed in a model: the tensors that differ, by name, and how to put them back.

A changed weight W is kept whole under its name, or, where low-rank adapters learned, as two factors
`<name>.left` and `<name>.right` with W + left · right (Hu et al. 2022, LoRA, the scale included).
"""

import copy

import torch
from torch import Tensor, nn

from splitcodec.errors import InputError, reason_of
from splitcodec.splitting.model import SplitModel

LEFT, RIGHT = ".left", ".right"


def back_modules(model: SplitModel, split: int) -> list[nn.Module]:
    """Blocks from `split` on, and what comes after the last: final norm and head."""
    model.check_split(split)
    return [*model.back_blocks(split), *model.tail]


def untie_head(model: SplitModel) -> None:
    """Give the head a weight of its own where it shares that of the token embedding."""
    head = model.model.get_output_embeddings()
    if head is not None and head.weight is model.model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)


def changes_between(original: SplitModel, trained: SplitModel) -> dict[str, Tensor]:
    """The weights of `trained`, in the original's precision, that differ from the original's."""
    before = dict(original.model.named_parameters(remove_duplicate=False))
    after = trained.model.named_parameters()
    rounded = {name: value.detach().to(before[name]) for name, value in after}
    return {name: value for name, value in rounded.items() if not value.equal(before[name])}


@torch.no_grad()
def changed_model(model: SplitModel, changes: dict[str, Tensor]) -> SplitModel:
    """A copy of `model` with its changes; itself where there are none.

    Raises InputError when the changes are those of another model.
    """
    if not changes:
        return model
    changed = copy.deepcopy(model)
    if any(name not in dict(changed.model.named_parameters()) for name in _weights(changes)):
        untie_head(changed)
    own = dict(changed.model.named_parameters())
    try:
        for name in _weights(changes):
            if name in changes:
                value = changes[name]
            else:
                left, right = (changes[name + side].float() for side in (LEFT, RIGHT))
                value = own[name].cpu().float() + left @ right
            if value.shape != own[name].shape:
                raise KeyError(f"{name} has shape {tuple(value.shape)}")
            own[name].copy_(value)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the codec changes weights that this model does not have ({reason_of(error)}); "
            "it was trained with another model"
        ) from None
    return changed


def _weights(changes: dict[str, Tensor]) -> list[str]:
    """The names of the weights that change."""
    names = (name.removesuffix(LEFT).removesuffix(RIGHT) for name in changes)
    return list(dict.fromkeys(names))
