"""Where the parts of each transformers architecture are called what.

One entry a base model class. To support another causal language model, or another image classifier
or encoder, register its layout:

    register("MistralModel", Layout(blocks="layers", norm="norm"))
    register("ViTModel", ImageLayout(embedding="embeddings", blocks="layers"))
"""

from dataclasses import dataclass

from torch import nn

from splitcodec.errors import ArchitectureError


@dataclass(frozen=True)
class Layout:
    """Attribute names inside a base model such as `LlamaModel`.

    `blocks`: the list of transformer blocks; `norm`: the normalisation after the last block;
    `positions`: an embedding of positions that forward() adds to the input embeddings, or None
    when positions enter by rotation inside the blocks; `decoder`: where in the base model all of
    these are, if not at its top.
    """

    blocks: str
    norm: str
    positions: str | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class ImageLayout:
    """Paths inside a base model such as `ViTModel`.

    `embedding`: makes the first representation of pixels; `blocks`: the list of blocks or stages;
    `maps`: whether these give feature maps (batch, channels, height, width) rather than tokens.
    """

    embedding: str
    blocks: str
    maps: bool = False


_LAYOUTS: dict[str, Layout | ImageLayout] = {}


def register(base_model: str, layout: Layout | ImageLayout) -> None:
    """Teach the splitter the layout of a base model class, by the class's name."""
    _LAYOUTS[base_model] = layout


def layout_of(base_model: nn.Module) -> Layout | ImageLayout:
    """The layout of a base model; raises ArchitectureError for an unregistered class."""
    name = type(base_model).__name__
    if name not in _LAYOUTS:
        raise ArchitectureError(
            f"do not know how to split a {name}; known are {', '.join(sorted(_LAYOUTS))}. Register "
            f"it: splitcodec.splitting.layouts.register({name!r}, Layout(blocks=…, norm=…))"
        )
    layout = _LAYOUTS[name]
    decoder = getattr(base_model, getattr(layout, "decoder", None) or "", base_model)
    if getattr(decoder, "project_in", None) is not None:  # as OPT-350m
        raise ArchitectureError(
            f"this {name} has embeddings of other width than its blocks, which a back cannot read; "
            "choose another size of it"
        )
    return layout


for _name in (
    "LlamaModel",
    "MistralModel",
    "Qwen2Model",
    "Qwen3Model",
    "GemmaModel",
    "Gemma2Model",
):
    register(_name, Layout(blocks="layers", norm="norm"))
register("PhiModel", Layout(blocks="layers", norm="final_layernorm"))
register("GPT2Model", Layout(blocks="h", norm="ln_f", positions="wpe"))
register("GPTNeoXModel", Layout(blocks="layers", norm="final_layer_norm"))
register(
    "OPTModel",
    Layout("layers", "final_layer_norm", positions="embed_positions", decoder="decoder"),
)

for _name in ("ViTModel", "DeiTModel"):
    register(_name, ImageLayout(embedding="embeddings", blocks="layers"))
for _name in ("Dinov2Model", "Dinov2WithRegistersModel"):
    register(_name, ImageLayout(embedding="embeddings", blocks="encoder.layer"))
register("ResNetModel", ImageLayout(embedding="embedder", blocks="encoder.stages", maps=True))
register("EfficientNetLiteModel", ImageLayout(embedding="embedder", blocks="blocks", maps=True))
