"""The two small networks that are trained, converted and distilled on Fashion-MNIST: a VGG and a ResNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 16


def _block(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def vgg(width: int = WIDTH) -> nn.Sequential:
    """Five 3×3 convolutions, each with batch-norm and ReLU: a stem of stride 2, then 14×14 and 7×7 images."""
    return nn.Sequential(
        *_block(1, width, stride=2),
        *_block(width, 2 * width),
        *_block(2 * width, 2 * width),
        nn.MaxPool2d(2),
        *_block(2 * width, 4 * width),
        *_block(4 * width, 4 * width),
        *_head(4 * width),
    )


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut, 1×1 where sizes change (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        last = _block(out_channels, out_channels)[:2]
        self.body = nn.Sequential(*_block(in_channels, out_channels, stride), *last)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The body plus the shortcut, through a ReLU."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(width: int = WIDTH) -> nn.Sequential:
    """A stem of stride 2 and three residual blocks, at 14×14 and twice at 7×7."""
    return nn.Sequential(
        *_block(1, width, stride=2),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 1),
        *_head(4 * width),
    )


NETWORKS = {"vgg": vgg, "resnet": resnet}
