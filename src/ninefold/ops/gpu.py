"""The operators in Triton's kernels (`ninefold.gpu`): float32, float16 and bfloat16 on a CUDA device.

Arguments as in `ops/fallback.py`; images come in any memory format and leave channels-last. Each call has
several ways, block sizes of our kernels and PyTorch's own operators, of which the planner takes the fastest.
What has no kernel here (standard convolutions, depth multipliers, windows that unroll too far) is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from ninefold.gpu import depthwise, planner, pointwise, separable
from ninefold.gpu.window import Window
from ninefold.ops import backend, fallback
from ninefold.ops.gpu_passes import describe
from ninefold.ops.operands import dense

conv2d = fallback.conv2d


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None,
) -> Tensor:
    """activation(depthwise(x) + bias)."""
    window = _window(weight, stride, padding, dilation)
    channels = x.shape[1]
    plain = partial(fallback.depthwise_conv2d, x, weight, bias, stride, padding, dilation, activation)
    if weight.shape[0] != channels or window is None:
        return plain()
    image, size = dense(x), window.output_size(x.shape[2], x.shape[3])
    taps = depthwise.taps_first(weight)

    def ours(config: depthwise.Config) -> Tensor:
        return depthwise.depthwise(
            image, taps, window, size, config=config, shift=_plain(bias), activation=activation
        )[0]

    configs = depthwise.configs(window, size, channels)
    ways: dict[str, planner.Way] = {str(config): partial(ours, config) for config in configs}
    task = f"depthwise_conv2d {describe(x)} {window} {activation} {bias is not None}"
    out: Tensor = planner.run(task, ways | {planner.PYTORCH: plain}, x)
    return out


def pointwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> Tensor:
    """activation(pointwise(x) + bias) + residual."""
    outputs, channels = weight.shape[:2]
    image, table = dense(x), weight.detach().reshape(outputs, channels)
    added = None if residual is None else dense(residual)

    def ours(config: pointwise.Config) -> Tensor:
        named = {"shift": _plain(bias), "activation": activation, "residual": added}
        return pointwise.pointwise(image, table, config=config, **named)[0]  # type: ignore[arg-type]

    configs = pointwise.configs(channels, outputs)
    ways: dict[str, planner.Way] = {str(config): partial(ours, config) for config in configs}
    ways[planner.PYTORCH] = partial(fallback.pointwise_conv2d, x, weight, bias, activation, residual)
    task = f"pointwise_conv2d {describe(x)} {outputs} {activation} {bias is not None} {added is not None}"
    out: Tensor = planner.run(task, ways, x)
    return out


def separable_conv2d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """activation(pointwise(depthwise_activation(depthwise(x) + bias)) + bias) + residual.

    In one kernel, or in the fastest of each stage's, whichever was faster.
    """
    outputs, channels = pointwise_weight.shape[:2]
    window = _window(depthwise_weight, stride, padding, dilation)

    def apart() -> Tensor:
        geometry = stride, padding, dilation
        filtered = depthwise_conv2d(x, depthwise_weight, depthwise_bias, *geometry, depthwise_activation)
        return pointwise_conv2d(filtered, pointwise_weight, pointwise_bias, activation, residual)

    if channels != x.shape[1] or window is None:
        return apart()
    image, size = dense(x), window.output_size(x.shape[2], x.shape[3])
    added = None if residual is None else dense(residual)
    taps = depthwise.taps_first(depthwise_weight)
    table = pointwise_weight.detach().reshape(outputs, channels).contiguous()

    def ours(config: separable.Config) -> Tensor:
        return separable.separable(
            image,
            taps,
            table,
            window,
            config=config,
            depthwise_shift=_plain(depthwise_bias),
            shift=_plain(pointwise_bias),
            depthwise_activation=depthwise_activation,
            activation=activation,
            residual=added,
        )

    configs = separable.configs(window, size, channels, outputs)
    ways: dict[str, planner.Way] = {str(config): partial(ours, config) for config in configs}
    biases = depthwise_bias is not None, pointwise_bias is not None
    task = (
        f"separable_conv2d {describe(x)} {outputs} {window} {depthwise_activation} {activation} {biases} "
        f"{added is not None}"
    )
    out: Tensor = planner.run(task, ways | {"apart": apart}, x)
    return out


def _window(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Window | None:
    """The window as the kernels take it, or None for one that would be unrolled too far."""
    tall, wide = weight.shape[2:]
    if backend.unrolled_too_far((tall, wide), stride, dilation):
        return None
    left, right, top, bottom = padding
    return Window(
        (tall, wide), (stride[0], stride[1]), (left, right, top, bottom), (dilation[0], dilation[1])
    )


def _plain(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
