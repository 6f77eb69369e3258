"""What is measured on a GPU: layers of MobileNets and ConvNeXt, and two networks, defined here.

The networks are timm's of those names, layer by layer (a test counts their parameters), so that nothing but
PyTorch has to be installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Separable:
    """A separable layer: 3×3 filters over `inputs` channels, then `outputs` channels; its input's size."""

    inputs: int
    outputs: int
    size: int
    stride: int

    def __str__(self) -> str:
        return f"{self.inputs}→{self.outputs}, {self.size}², stride {self.stride}"


@dataclass(frozen=True)
class Depthwise:
    """A depthwise layer; input size."""

    channels: int
    size: int
    kernel: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels}, {self.kernel}×{self.kernel}, {self.size}², stride {self.stride}"


MOBILENET_V1 = (
    Separable(32, 64, 112, 1),
    Separable(64, 128, 112, 2),
    Separable(128, 128, 56, 1),
    Separable(128, 256, 56, 2),
    Separable(256, 256, 28, 1),
    Separable(256, 512, 28, 2),
    Separable(512, 512, 14, 1),
    Separable(512, 1024, 14, 2),
    Separable(1024, 1024, 7, 1),
    Separable(512, 1024, 14, 1),
)
# MobileNetV2's 3×3 and ConvNeXt-Tiny's 7×7 layers, one of each size.
DEPTHWISE = (
    Depthwise(96, 112, 3, 2),
    Depthwise(144, 56, 3, 1),
    Depthwise(192, 28, 3, 1),
    Depthwise(576, 14, 3, 1),
    Depthwise(960, 7, 3, 1),
    Depthwise(96, 56, 7, 1),
    Depthwise(192, 28, 7, 1),
    Depthwise(384, 14, 7, 1),
    Depthwise(768, 7, 7, 1),
)


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if act else []))


class Residual(nn.Module):
    """Expansion (unless `ratio` is 1), filters, projection; the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, ratio: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * ratio
        self.body = nn.Sequential(
            *([_unit(inputs, wide, 1)] if ratio > 1 else []),
            _unit(wide, wide, kernel, stride, groups=wide),
            _unit(wide, outputs, 1, act=False),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The block's result."""
        return x + self.body(x) if self.adds else self.body(x)


# Outputs, ratio, kernel, stride of the first, how many.
_ROWS = {
    "mobilenetv2_100": (
        *((16, 1, 3, 1, 1), (24, 6, 3, 2, 2), (32, 6, 3, 2, 3), (64, 6, 3, 2, 4)),
        *((96, 6, 3, 1, 3), (160, 6, 3, 2, 3), (320, 6, 3, 1, 1)),
    ),
    "efficientnet_lite0": (
        *((16, 1, 3, 1, 1), (24, 6, 3, 2, 2), (40, 6, 5, 2, 2), (80, 6, 3, 2, 3)),
        *((112, 6, 5, 1, 3), (192, 6, 5, 2, 4), (320, 6, 3, 1, 1)),
    ),
}
NETWORKS = tuple(_ROWS)


def network(name: str) -> nn.Module:
    """One of NETWORKS, for images of 224², 1000 classes."""
    layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
    inputs = 32
    for outputs, ratio, kernel, stride, count in _ROWS[name]:
        for number in range(count):
            layers.append(Residual(inputs, outputs, ratio, kernel, stride if number == 0 else 1))
            inputs = outputs
    layers += [_unit(inputs, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers)
