"""Training's passes over images, in Triton's kernels: float32, float16 and bfloat16 on a CUDA device.

The same functions as `passes.py` has for the CPU. A gradient is kept behind its activation's slope, whichever
that is. Each convolution has several ways, and the planner takes the fastest: block sizes of our kernels,
which normalise as they read and reduce as they write, or PyTorch's convolution between passes of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor

from ninefold.gpu import between, depthwise_weight, launch, planner, pointwise_weight
from ninefold.gpu import depthwise as depthwise_kernels
from ninefold.gpu import pointwise as pointwise_kernels
from ninefold.gpu.launch import Config
from ninefold.gpu.window import Window
from ninefold.ops import whole
from ninefold.ops.operands import Gradient, Gradients, Operand

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
_POINT = ((1, 1), (0, 0, 0, 0), (1, 1))


def depthwise(
    x: Operand,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    moments: Tensor | None,
) -> Tensor:
    """Filter an operand; `moments`, two rows, takes the output's mean and biased variance."""
    window = Window((weight.shape[2], weight.shape[3]), stride, padding, dilation)
    size, channels = window.output_size(*x.z.shape[2:]), weight.shape[0]
    named = _detached({"read": x.activation, "numbers": x.numbers, "shift": _plain(bias)})
    kernel = partial(_filtered, x.z, weight, window, size, **named)
    configs = depthwise_kernels.configs(window, size, channels, reads=x.numbers is not None)
    again = partial(depthwise, weight=weight, bias=bias, stride=stride, padding=padding, dilation=dilation)
    ways = _forward(kernel, configs, configs[0], again, x, moments)
    if x.numbers is None:
        geometry = stride, padding, dilation, channels
        ways[planner.PYTORCH] = lambda: whole.forward(_home(), x, weight, bias, *geometry, moments)
    task = f"depthwise {describe(x.z)} {window} {_reading(x)} {bias is not None} {moments is not None}"
    out: Tensor = planner.run(task, ways, x.z)
    return out


def pointwise(x: Operand, weight: Tensor, bias: Tensor | None, moments: Tensor | None) -> Tensor:
    """Combine an operand's channels; `moments`, two rows, takes the output's mean and biased variance."""
    outputs, channels = weight.shape[:2]
    table = weight.detach().reshape(outputs, channels)
    named = _detached({"read": x.activation, "numbers": x.numbers, "shift": _plain(bias)})
    kernel = partial(pointwise_kernels.pointwise, x.z, table, **named)
    configs = pointwise_kernels.configs(channels, outputs, reduces=moments is not None)
    plain, *_ = pointwise_kernels.configs(channels, outputs)
    ways = _forward(kernel, configs, plain, partial(pointwise, weight=weight, bias=bias), x, moments)
    if x.numbers is None:
        ways[planner.PYTORCH] = lambda: whole.forward(_home(), x, weight, bias, *_POINT, 1, moments)
    task = f"pointwise {describe(x.z)} {outputs} {_reading(x)} {bias is not None} {moments is not None}"
    out: Tensor = planner.run(task, ways, x.z)
    return out


def depthwise_backward(
    dz: Gradient,
    x: Operand,
    weight: Tensor,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    needed: tuple[bool, bool],
) -> Gradients:
    """Gradients of the weight (C, 1, kh, kw) and of the operand, those of the two that are needed."""
    window = Window((weight.shape[2], weight.shape[3]), stride, padding, dilation)
    size, channels = (x.z.shape[2], x.z.shape[3]), weight.shape[0]
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    along = partial(depthwise_weight.depthwise_weight, dz.arrived, x.z, window, **_weighing(x, dz))
    back = partial(_filtered, dz.arrived, weight, window, size, backward=True, **_turning(dz))
    turned = dz.turn is not None
    configs = depthwise_kernels.configs(window, size, channels, reads=turned, backward=True)
    output_size = dz.arrived.shape[2], dz.arrived.shape[3]
    return _backward(
        f"depthwise {describe(x.z)} {window} {_reading(x)} {turned}",
        {
            str(config): partial(along, config=config)
            for config in depthwise_weight.configs(window, output_size, channels)
        },
        _input(back, configs, configs[0], x),
        partial(depthwise_backward, weight=weight, **geometry),
        lambda *which: whole.backward(_home(), dz, x, weight, **geometry, groups=channels, needed=which),
        dz,
        x,
        weight,
        needed,
    )


def pointwise_backward(dz: Gradient, x: Operand, weight: Tensor, needed: tuple[bool, bool]) -> Gradients:
    """Gradients of the weight (N, C, 1, 1) and of the operand, those of the two that are needed."""
    outputs, channels = weight.shape[:2]
    table = weight.detach().reshape(outputs, channels)
    along = partial(pointwise_weight.pointwise_weight, dz.arrived, x.z, **_weighing(x, dz))
    back = partial(pointwise_kernels.pointwise, dz.arrived, table, transposed=True, **_turning(dz))
    reduces = x.numbers is not None
    configs = pointwise_kernels.configs(outputs, channels, reduces=reduces)
    plain, *_ = pointwise_kernels.configs(outputs, channels)
    return _backward(
        f"pointwise {describe(x.z)} {outputs} {_reading(x)} {dz.turn is not None}",
        {
            str(config): partial(along, config=config)
            for config in pointwise_weight.configs(channels, outputs)
        },
        _input(back, configs, plain, x),
        partial(pointwise_backward, weight=weight),
        lambda *which: whole.backward(_home(), dz, x, weight, *_POINT, 1, which),
        dz,
        x,
        weight,
        needed,
    )


def apply(x: Operand, residual: Tensor | None = None) -> Tensor:
    """The operand's values, and the residual added."""
    return between.apply(x.z, x.numbers, x.activation, residual)


def moments(z: Tensor, out: Tensor) -> None:
    """Write the mean and the biased variance of each channel into the first two rows of `out`."""
    between.moments(z, out)


def reduce(operand: Operand, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient as the kernels keep it, and its two sums per channel."""
    assert operand.numbers is not None
    return between.reduce(operand.z, operand.numbers, operand.activation, gradient)


def turn(dz: Gradient) -> Tensor:
    """The gradient of z, whole: for convolutions that PyTorch differentiates."""
    assert dz.turn is not None and dz.operand.numbers is not None
    return between.turn(dz.arrived, dz.operand.z, dz.operand.numbers, dz.turn)


def normalisation(numbers: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> None:
    """Fill in scale and shift, the last two rows of an operand's numbers, from mean and variance."""
    between.normalise(numbers, _plain(gamma), _plain(beta), eps)


def normalisation_backward(
    operand: Operand, gamma: Tensor | None, eps: float, sums: Tensor, batch_statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the turn of an operand's gradient, and the gradients of gamma and beta."""
    assert operand.numbers is not None
    made, along = between.normalise_backward(
        operand.numbers, _plain(gamma), eps, sums, operand.pixels, batch_statistics
    )
    return made, along[0], along[1]


def describe(x: Tensor) -> str:
    """An image, in a task's words."""
    precision = f" {launch.precision()}" if x.element_size() == 4 else ""
    return f"{'x'.join(map(str, x.shape))} {str(x.dtype).removeprefix('torch.')}{precision}"


def _filtered(
    x: Tensor, weight: Tensor, window: Window, size: Pair, **how: Any
) -> tuple[Tensor, Tensor | None]:
    """The depthwise kernel, its weights laid out for it: only where it is the way that is taken."""
    return depthwise_kernels.depthwise(x, depthwise_kernels.taps_first(weight), window, size, **how)


def _forward(
    kernel: Callable[..., tuple[Tensor, Tensor | None]],
    configs: Sequence[Config],
    plain: Config,
    again: Callable[..., Tensor],
    x: Operand,
    moments: Tensor | None,
) -> dict[str, planner.Way]:
    """The ways of a convolution that reads and reduces: all in one kernel, or the one or the other apart.

    A value of a 3×3 layer's image is normalised and activated for three outputs of nine: on an H200 144
    channels at 56² and batch 256 take 630 µs so, 604 with the statistics apart, 451 with a pass before.
    """

    def together(config: Config) -> Tensor:
        return kernel(config=config, moments=moments)[0]

    ways: dict[str, planner.Way] = {str(config): partial(together, config) for config in configs}
    if moments is not None:

        def apart() -> Tensor:
            z, _ = kernel(config=plain)
            between.moments(z, moments)
            return z

        ways[f"{plain}, moments apart"] = apart
    if x.numbers is not None:
        ways["applied first"] = lambda: again(Operand(apply(x)), moments=moments)
    return ways


def _input(
    kernel: Callable[..., tuple[Tensor, Tensor | None]],
    configs: Sequence[Config],
    plain: Config,
    x: Operand,
) -> dict[str, planner.Way]:
    """The ways of an operand's gradient: with its two sums, or those by a pass of their own."""
    if x.numbers is None:
        return {str(config): partial(kernel, config=config) for config in configs}
    below = {"below": x.z, "below_numbers": x.numbers, "activation": x.activation}
    ways: dict[str, planner.Way] = {
        str(config): partial(kernel, config=config, **below) for config in configs
    }
    ways[f"{plain}, sums apart"] = lambda: reduce(x, kernel(config=plain)[0])
    return ways


def _backward(
    task: str,
    weights: dict[str, planner.Way],
    inputs: dict[str, planner.Way],
    again: Callable[..., Gradients],
    plain: Callable[..., Gradients],
    dz: Gradient,
    x: Operand,
    weight: Tensor,
    needed: tuple[bool, bool],
) -> Gradients:
    """Each of two gradients its fastest way; where PyTorch's is that for both, it makes both at once.

    A gradient that is turned as it is read may as well be turned first, for both.
    """
    if dz.turn is None:
        if x.numbers is not None:
            weights["applied first"] = lambda: again(dz, Operand(apply(x)), needed=(True, False)).weight
        weights[planner.PYTORCH] = lambda: plain(True, False).weight
        inputs[planner.PYTORCH] = lambda: (lambda got: (got.input, got.sums))(plain(False, True))
    tasks = f"{task} weight", f"{task} input"

    def apart() -> Gradients:
        if all(needed):
            ways = zip(tasks, (weights, inputs), strict=True)
            if [planner.choose(what, some, x.z) for what, some in ways] == [planner.PYTORCH] * 2:
                return plain(True, True)
        along = planner.run(tasks[0], weights, x.z).to(weight.dtype) if needed[0] else None
        made, sums = planner.run(tasks[1], inputs, x.z) if needed[1] else (None, None)
        return Gradients(along, made, sums)

    if dz.turn is None:
        return apart()

    def first() -> Gradients:
        turned = turn(dz)
        return again(Gradient(Operand(turned), turned), x, needed=needed)

    made: Gradients = planner.run(f"{task} {needed}", {"as it arrives": apart, "turned first": first}, x.z)
    return made


def _turning(dz: Gradient) -> dict[str, Any]:
    """How a kernel reads the gradient of z."""
    if dz.turn is None:
        return {"numbers": None, "beside": None, "turn": None}
    return {"numbers": dz.operand.numbers, "beside": dz.operand.z, "turn": dz.turn}


def _weighing(x: Operand, dz: Gradient) -> dict[str, Any]:
    """How a kernel reads the two images of a weights' gradient."""
    turning = _turning(dz)
    turning["gradient_numbers"] = turning.pop("numbers")
    return {"read": x.activation, "numbers": x.numbers, **turning}


def _reading(x: Operand) -> str:
    return f"{x.numbers is not None} {x.activation}"


def _plain(tensor: Tensor | None) -> Tensor | None:
    """A number for each channel without its history, side by side as the kernels read them."""
    return None if tensor is None else tensor.detach().contiguous()


def _detached(named: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in named.items()}


def _home() -> ModuleType:
    return sys.modules[__name__]
