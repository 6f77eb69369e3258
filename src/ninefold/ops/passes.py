"""Training's passes over images, in the compiled kernels: dense float32 on the CPU, images channels-last.

What they take is in `operands.py`. The callers have checked shapes and types.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ninefold.ops import cpu, gradients
from ninefold.ops.cpu import Pair, Sides, _kernels
from ninefold.ops.operands import SLOPED, Gradient, Gradients, Operand, dense, unchanged

FEWEST_CHANNELS = 4  # a vector of the narrowest instruction set
LARGE = 1 << 20  # bytes, from which on images lie in one range of addresses (kernels/runtime/images.cpp)


def _operand(x: Operand) -> _kernels.Operand:
    """The extension's view of it; the tensors must outlive that."""
    n, c, h, w = x.z.shape
    numbers = 0 if x.numbers is None else x.numbers.data_ptr()
    return _kernels.Operand(x.z.data_ptr(), n, h, w, c, numbers, x.activation or "")


def _gradient(dz: Gradient) -> _kernels.Gradient:
    """The extension's view of it; the tensors must outlive that."""
    turn = 0 if dz.turn is None else dz.turn.data_ptr()
    return _kernels.Gradient(_operand(dz.operand), dz.arrived.data_ptr(), turn)


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
    geometry = stride, padding, dilation, weight.shape[0]
    return _windowed(_kernels.train_depthwise, x, weight, bias, *geometry, moments)


def pointwise(x: Operand, weight: Tensor, bias: Tensor | None, moments: Tensor | None) -> Tensor:
    """Combine an operand's channels; `moments`, two rows, takes the output's mean and biased variance."""
    packed = cpu.Convolution(weight, bias, (1, 1), (1, 1), 1, None, x.z.shape[1])
    n, _, h, w = x.z.shape
    out = _image(n, weight.shape[0], h, w)
    _kernels.train_pointwise(
        packed.kernel, _operand(x), out.data_ptr(), _address(moments), torch.get_num_threads()
    )
    return out


def conv2d(
    x: Operand,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    moments: Tensor | None,
) -> Tensor:
    """A standard convolution of an operand; `moments` as in `depthwise`."""
    return _windowed(_kernels.train_conv2d, x, weight, bias, stride, padding, dilation, 1, moments)


def _windowed(
    kernel: Callable[..., None],
    x: Operand,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    moments: Tensor | None,
) -> Tensor:
    packed = cpu.Convolution(weight, bias, stride, dilation, groups, None, x.z.shape[1])
    n, _, h, w = x.z.shape
    out = _image(n, weight.shape[0], *cpu._output_size(packed, h, w, padding))
    sides, threads = _kernels.Padding(*padding), torch.get_num_threads()
    kernel(packed.kernel, _operand(x), sides, out.data_ptr(), _address(moments), threads)
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
    return _windowed_backward(
        _kernels.train_depthwise_backward, dz, x, weight, stride, padding, dilation, needed
    )


def conv2d_backward(
    dz: Gradient,
    x: Operand,
    weight: Tensor,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    needed: tuple[bool, bool],
) -> Gradients:
    """As `depthwise_backward`, of a standard convolution; the operand's gradient at stride 1 alone."""
    return _windowed_backward(
        _kernels.train_conv2d_backward, dz, x, weight, stride, padding, dilation, needed
    )


def _windowed_backward(
    kernel: Callable[..., None],
    dz: Gradient,
    x: Operand,
    weight: Tensor,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    needed: tuple[bool, bool],
) -> Gradients:
    weight = cpu._dense(weight)
    made = _room(x, weight, needed)
    window = _kernels.Window(weight.shape[2], weight.shape[3], *stride, *dilation)
    sides = _kernels.Padding(*padding)
    threads = torch.get_num_threads()
    kernel(weight.data_ptr(), window, sides, _gradient(dz), _operand(x), *_addresses(made), threads)
    return made


def pointwise_backward(dz: Gradient, x: Operand, weight: Tensor, needed: tuple[bool, bool]) -> Gradients:
    """Gradients of the weight (N, C, 1, 1) and of the operand, those of the two that are needed."""
    weight = cpu._dense(weight)
    made = _room(x, weight, needed)
    _kernels.train_pointwise_backward(
        weight.data_ptr(), _gradient(dz), _operand(x), *_addresses(made), torch.get_num_threads()
    )
    return made


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    needed: tuple[bool, bool, bool],
) -> gradients.Gradients:
    """`gradients.convolution`, without a bias; in the kernels where they can, else in PyTorch."""
    outputs, inputs, tall, wide = weight.shape
    flat = (tall, wide, *stride, *padding, groups) == (1, 1, 1, 1, 0, 0, 0, 0, 1)
    deep = groups == outputs == x.shape[1] >= FEWEST_CHANNELS and inputs == 1
    if not (flat or deep):
        return gradients.convolution(grad, x, weight, bias, stride, padding, dilation, groups, needed)
    read, arrived = Operand(dense(x)), dense(grad)
    dz, needs = Gradient(Operand(arrived), arrived), (needed[1], needed[0])
    if flat:
        made = pointwise_backward(dz, read, weight, needs)
    else:
        made = depthwise_backward(dz, read, weight, stride, padding, dilation, needs)
    return made.input, made.weight, None


def apply(x: Operand, residual: Tensor | None = None) -> Tensor:
    """The operand's values, and the residual added."""
    out = _image(*x.z.shape)
    _kernels.train_apply(_operand(x), _address(residual), out.data_ptr(), torch.get_num_threads())
    return out


def moments(z: Tensor, out: Tensor) -> None:
    """Write the mean and the biased variance of each channel into the two rows of `out`."""
    n, c, h, w = z.shape
    _kernels.train_moments(z.data_ptr(), n, h, w, c, out.data_ptr(), torch.get_num_threads())


def reduce(operand: Operand, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient as the kernels keep it, and its two sums per channel, in float64."""
    sums = torch.empty((2, operand.z.shape[1]), dtype=torch.float64, device="cpu")
    kept = _image(*gradient.shape) if operand.activation in SLOPED else gradient
    arrived = Gradient(operand, gradient)
    _kernels.train_reduce(_gradient(arrived), kept.data_ptr(), sums.data_ptr(), torch.get_num_threads())
    return kept, sums


def slopes(channels: int, activation: str) -> bool:
    """Whether there is a kernel for an activation's gradient over so many channels."""
    return activation in SLOPED and channels >= FEWEST_CHANNELS


def slope(gradient: Tensor, before: Tensor, activation: str) -> Tensor:
    """The gradient that arrives behind an activation, at `before` it."""
    z = dense(before)
    return reduce(Operand(z, unchanged(z), activation), dense(gradient))[0]


def turn(dz: Gradient) -> Tensor:
    """The gradient of z, whole: for convolutions that PyTorch differentiates."""
    out = _image(*dz.arrived.shape)
    _kernels.train_turn(_gradient(dz), out.data_ptr(), torch.get_num_threads())
    return out


def normalisation(numbers: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> None:
    """Fill in scale and shift, the last two rows of an operand's numbers, from mean and variance."""
    gamma, beta = _dense(gamma), _dense(beta)
    _kernels.train_normalisation(numbers.data_ptr(), _address(gamma), _address(beta), eps, numbers.shape[1])


def normalisation_backward(
    operand: Operand, gamma: Tensor | None, eps: float, sums: Tensor, batch_statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the turn of an operand's gradient, and the gradients of gamma and beta."""
    assert operand.numbers is not None
    channels, gamma = operand.z.shape[1], _dense(gamma)
    room = operand.numbers.new_empty
    made = room((3, channels)), room(channels), room(channels)
    _kernels.train_normalisation_gradient(
        operand.numbers.data_ptr(),
        _address(gamma),
        eps,
        sums.data_ptr(),
        operand.pixels,
        batch_statistics,
        channels,
        *(tensor.data_ptr() for tensor in made),
    )
    return made


def _room(x: Operand, weight: Tensor, needed: tuple[bool, bool]) -> Gradients:
    sums = needed[1] and x.numbers is not None and not x.bare
    return Gradients(
        _like(weight) if needed[0] else None,
        _image(*x.z.shape) if needed[1] else None,
        torch.empty((2, x.z.shape[1]), dtype=torch.float64, device="cpu") if sums else None,
    )


def release_images() -> None:
    """Give back to the system the memory of images that is kept for the next."""
    _kernels.release_images()


def _image(n: int, c: int, h: int, w: int) -> Tensor:
    if 4 * n * c * h * w < LARGE:
        return cpu.empty(n, c, h, w)
    return torch.from_dlpack(_kernels.image(n, h, w, c))


def _like(weight: Tensor) -> Tensor:
    """Room for a weight's gradient."""
    outputs, inputs, *window = weight.shape
    if window != [1, 1] or 4 * outputs * inputs < LARGE:
        return torch.empty_like(weight)
    return torch.from_dlpack(_kernels.matrix(outputs, inputs))


def _addresses(made: Gradients) -> tuple[int, int, int]:
    return _address(made.weight), _address(made.input), _address(made.sums)


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else cpu._dense(tensor)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
