"""Layers with PyTorch's weight layouts and state_dict names, run by `ninefold.ops`.

Weights and biases start as those of `torch.nn.Conv2d`. `stride`, `padding`, `dilation` and the activations
are `ninefold.ops`'s. `from_keras` makes a layer from Keras's kernels; Keras's "same" is "same_upper" here.
"""

from __future__ import annotations

from ninefold.nn.block import SeparableBlock
from ninefold.nn.layers import DepthwiseConv2d, PointwiseConv2d, SeparableConv2d

__all__ = ["DepthwiseConv2d", "PointwiseConv2d", "SeparableBlock", "SeparableConv2d"]
