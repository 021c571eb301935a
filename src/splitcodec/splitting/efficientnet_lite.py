"""EfficientNet-Lite0: a real ImageNet classifier that a package ships, as a model of transformers.

Tan and Le 2019 (EfficientNet) without squeeze-and-excitation and with ReLU6, as published for
mobile devices. Blocks are the sixteen inverted bottlenecks; padding is TensorFlow's "same".
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput

_EPSILON = 1e-3

LITE0 = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLiteConfig(PreTrainedConfig):
    """`stages`: (repeats, kernel, stride, expansion, channels) each; `stem`, `top`: channels."""

    model_type = "efficientnet_lite"

    def __init__(
        self,
        stem: int = 32,
        stages: tuple[tuple[int, ...], ...] = LITE0,
        top: int = 1280,
        **more: Any,
    ) -> None:
        self.stem = stem
        self.stages = [list(stage) for stage in stages]
        self.top = top
        if "id2label" not in more:  # as saved configurations have it
            more.setdefault("num_labels", 1000)
        super().__init__(**more)

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels after each block."""
        return [channels for repeats, *_, channels in self.stages for _ in range(repeats)]


class _SameConvolution(nn.Conv2d):
    """Pads so that the output has ⌈size / stride⌉ positions a side, the odd one at the end."""

    def forward(self, input: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in zip(
            reversed(input.shape[-2:]),
            reversed(self.kernel_size),
            reversed(self.stride),
            strict=True,
        ):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(input, padding))


def _layer(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bounded: bool = True
) -> nn.Sequential:
    convolution = _SameConvolution(inputs, outputs, kernel, stride, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=_EPSILON)
    return nn.Sequential(convolution, norm, *([nn.ReLU6()] if bounded else []))


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, linear projection; added to the input where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _layer(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(wide, wide, kernel, stride, groups=wide)
        self.project = _layer(wide, outputs, 1, bounded=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, states: Tensor) -> Tensor:
        """(batch, inputs, H, W) to (batch, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        found = self.project(self.depthwise(self.expand(states)))
        return found + states if self.adds else found


class EfficientNetLitePreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ("image",)


class EfficientNetLiteModel(EfficientNetLitePreTrainedModel):
    """Pixels to the feature map of the last block."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.embedder = _layer(3, config.stem, 3, stride=2)
        self.blocks = nn.ModuleList()
        inputs = config.stem
        for repeats, kernel, stride, expansion, outputs in config.stages:
            for repeat in range(repeats):
                step = 1 if repeat else stride
                self.blocks.append(InvertedBottleneck(inputs, outputs, kernel, step, expansion))
                inputs = outputs
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """(batch, 3, H, W) to (batch, channels, H / 32, W / 32)."""
        states = self.embedder(pixel_values)
        for block in self.blocks:
            states = block(states)
        return BaseModelOutput(last_hidden_state=states)


class EfficientNetLiteForImageClassification(EfficientNetLitePreTrainedModel):
    """With one more convolution, the mean over positions, and a linear layer."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.efficientnet_lite = EfficientNetLiteModel(config)
        self.top = _layer(config.hidden_sizes[-1], config.top, 1)
        self.classifier = nn.Linear(config.top, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutput:
        """Logits (batch, classes)."""
        states = self.efficientnet_lite(pixel_values).last_hidden_state
        logits = self.classifier(self.top(states).mean(dim=(2, 3)))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def register() -> None:
    """Let transformers' Auto classes know these models; a second call changes nothing."""
    AutoConfig.register("efficientnet_lite", EfficientNetLiteConfig, exist_ok=True)
    AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
    AutoModelForImageClassification.register(
        EfficientNetLiteConfig, EfficientNetLiteForImageClassification, exist_ok=True
    )
