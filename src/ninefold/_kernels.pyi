"""The compiled extension (kernels/runtime/module.cpp): addresses of dense float32 arrays, images NHWC."""

from typing import Any

def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use(name: str) -> None: ...
def weights_last(yes: bool, /) -> None: ...
def transpose(x: int, images: int, rows: int, columns: int, out: int, threads: int) -> None: ...
def cores() -> int: ...
def refuse(threads: int) -> None: ...
def fma_peak(threads: int, seconds: float) -> float: ...
def copy_bandwidth(bytes: int, threads: int, seconds: float) -> float: ...

class Window:
    def __init__(
        self, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int
    ) -> None: ...

class Padding:
    def __init__(self, left: int, right: int, top: int, bottom: int) -> None: ...

class Depthwise:
    def __init__(
        self, weight: int, bias: int, channels: int, multiplier: int, window: Window, activation: str, /
    ) -> None: ...
    def run(
        self, x: int, n: int, h: int, w: int, c: int, padding: Padding, out: int, threads: int, /
    ) -> None: ...

class Pointwise:
    def __init__(
        self, weight: int, bias: int, in_channels: int, out_channels: int, activation: str, threads: int, /
    ) -> None: ...
    def run(self, x: int, pixels: int, residual: int, out: int, threads: int, /) -> None: ...

class Conv2d:
    def __init__(
        self,
        weight: int,
        bias: int,
        in_channels: int,
        out_channels: int,
        groups: int,
        window: Window,
        activation: str,
        threads: int,
        winograd: bool,
        /,
    ) -> None: ...
    def run(
        self, x: int, n: int, h: int, w: int, c: int, padding: Padding, out: int, threads: int, /
    ) -> None: ...

def conv2d(
    weight: int,
    channels_last: bool,
    bias: int,
    out_channels: int,
    groups: int,
    window: Window,
    activation: str,
    x: int,
    n: int,
    h: int,
    w: int,
    c: int,
    padding: Padding,
    out: int,
    threads: int,
    /,
) -> None: ...

class Separable:
    def __init__(self, depthwise: Depthwise, pointwise: Pointwise, /) -> None: ...
    def run(
        self,
        x: int,
        n: int,
        h: int,
        w: int,
        c: int,
        padding: Padding,
        residual: int,
        out: int,
        threads: int,
        /,
    ) -> None: ...

class Inverted:
    def __init__(self, expansion: Pointwise, depthwise: Depthwise, projection: Pointwise | None) -> None: ...
    def run(
        self,
        x: int,
        n: int,
        h: int,
        w: int,
        c: int,
        padding: Padding,
        residual: int,
        out: int,
        threads: int,
        /,
    ) -> None: ...

_Sizes = tuple[int, int, int, int]  # batch, height, width, channels

class Plan:
    def __init__(self, inputs: int) -> None: ...
    def depthwise(self, layer: Depthwise, padding: Padding, x: int, /) -> int: ...
    def conv2d(self, layer: Conv2d, padding: Padding, x: int, /) -> int: ...
    def pointwise(self, layer: Pointwise, x: int, residual: int | None, gate: int | None, /) -> int: ...
    def separable(self, layer: Separable, padding: Padding, x: int, residual: int | None, /) -> int: ...
    def inverted(self, layer: Inverted, padding: Padding, x: int, residual: int | None, /) -> int: ...
    def add(self, a: int, b: int, /) -> int: ...
    def scale(self, x: int, gate: int, /) -> int: ...
    def mean(self, x: int, /) -> int: ...
    def largest(self, window: Window, padding: Padding, ceil: bool, x: int, /) -> int: ...
    def average(
        self, window: Window, padding: Padding, ceil: bool, count_padding: bool, divisor: int, x: int, /
    ) -> int: ...
    def shuffle(self, groups: int, x: int, /) -> int: ...
    def activation(self, name: str, x: int, /) -> int: ...
    def layer_norm(self, gain: list[float], offset: list[float], epsilon: float, x: int, /) -> int: ...
    def concatenation(self, images: list[int], /) -> int: ...
    def channels(self, first: int, last: int, x: int, /) -> int: ...
    def finish(self, outputs: list[int]) -> None: ...
    def shapes(self, inputs: list[_Sizes]) -> list[_Sizes]: ...
    def arena_bytes(self, inputs: list[_Sizes]) -> int: ...
    def run(
        self, x: list[int], sizes: list[_Sizes], out: list[int], threads: int, poison: bool, /
    ) -> None: ...
    def timed(self, x: list[int], sizes: list[_Sizes], out: list[int], threads: int, /) -> list[float]: ...

class Operand:
    def __init__(self, z: int, n: int, h: int, w: int, c: int, numbers: int, activation: str, /) -> None: ...

class Gradient:
    def __init__(self, operand: Operand, gradient: int, turn: int, /) -> None: ...

class Stage:
    def __init__(
        self,
        kind: str,
        outputs: int,
        window: Window,
        padding: Padding,
        activation: str,
        normalises: bool,
        batch: bool,
        epsilon: float,
        /,
    ) -> None: ...

class Chain:
    def __init__(self, stages: list[Stage], ahead: str) -> None: ...
    def forward(
        self,
        x: int,
        size: _Sizes,
        tensors: list[int],
        momenta: list[float],
        outputs: list[int],
        numbers: int,
        residual: int,
        result: int,
        threads: int,
        /,
    ) -> None: ...
    def backward(
        self,
        x: int,
        size: _Sizes,
        tensors: list[int],
        outputs: list[int],
        numbers: int,
        gradient: int,
        gradients: list[int],
        input: int,
        itself: bool,
        threads: int,
        /,
    ) -> None: ...

def train_depthwise(
    layer: Depthwise, x: Operand, padding: Padding, out: int, moments: int, threads: int, /
) -> None: ...
def train_pointwise(layer: Pointwise, x: Operand, out: int, moments: int, threads: int, /) -> None: ...
def train_conv2d(
    layer: Conv2d, x: Operand, padding: Padding, out: int, moments: int, threads: int, /
) -> None: ...
def train_depthwise_backward(
    weight: int,
    window: Window,
    padding: Padding,
    dz: Gradient,
    x: Operand,
    weight_gradient: int,
    input_gradient: int,
    sums: int,
    threads: int,
    /,
) -> None: ...
def train_conv2d_backward(
    weight: int,
    window: Window,
    padding: Padding,
    dz: Gradient,
    x: Operand,
    weight_gradient: int,
    input_gradient: int,
    sums: int,
    threads: int,
    /,
) -> None: ...
def train_pointwise_backward(
    weight: int,
    dz: Gradient,
    x: Operand,
    weight_gradient: int,
    input_gradient: int,
    sums: int,
    threads: int,
    /,
) -> None: ...
def train_apply(x: Operand, residual: int, out: int, threads: int, /) -> None: ...
def train_moments(z: int, n: int, h: int, w: int, c: int, moments: int, threads: int, /) -> None: ...
def train_reduce(gradient: Gradient, out: int, sums: int, threads: int, /) -> None: ...
def train_turn(gradient: Gradient, out: int, threads: int, /) -> None: ...
def image(batch: int, height: int, width: int, channels: int) -> Any: ...
def matrix(outputs: int, inputs: int) -> Any: ...
def release_images() -> None: ...
def caches_hold(bytes: int) -> None: ...
def train_normalisation(numbers: int, gamma: int, beta: int, epsilon: float, channels: int, /) -> None: ...
def train_normalisation_gradient(
    numbers: int,
    gamma: int,
    epsilon: float,
    sums: int,
    count: float,
    batch: bool,
    channels: int,
    turn: int,
    gamma_gradient: int,
    beta_gradient: int,
    /,
) -> None: ...
