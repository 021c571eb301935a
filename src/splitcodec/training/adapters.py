"""Low-rank adapters on the linear layers of some blocks (Hu et al. 2022), by `peft`."""

from collections.abc import Iterable

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from splitcodec.splitting.changes import LEFT, RIGHT
from splitcodec.splitting.model import SplitModel


def add_adapters(model: SplitModel, blocks: Iterable[nn.Module], rank: int) -> None:
    """Put adapters on all linear layers of `blocks`; they alone are left to learn."""
    linear = {
        id(module)
        for block in blocks
        for module in block.modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    names = [name for name, module in model.model.named_modules() if id(module) in linear]
    transposed = any(
        isinstance(module, Conv1D) for name, module in model.model.named_modules() if name in names
    )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, fan_in_fan_out=transposed)
    inject_adapter_in_model(config, model.model)


def adapter_factors(model: SplitModel) -> dict[str, Tensor]:
    """The factors of each adapted weight, as `splitting.changes` keeps them."""
    factors: dict[str, Tensor] = {}
    for name, layer in model.model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        ((key, scale),) = layer.scaling.items()
        down, up = layer.lora_A[key].weight.detach(), scale * layer.lora_B[key].weight.detach()
        # Conv1D keeps its weight as (inputs, outputs).
        left, right = (down.T, up.T) if layer.fan_in_fan_out else (up, down)
        factors[f"{name}.weight{LEFT}"] = left.contiguous()
        factors[f"{name}.weight{RIGHT}"] = right.contiguous()
    return factors
