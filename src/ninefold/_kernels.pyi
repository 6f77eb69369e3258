"""The compiled extension (kernels/runtime/module.cpp): addresses of dense float32 arrays, images NHWC."""

def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use(name: str) -> None: ...
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
        /,
    ) -> None: ...
    def run(
        self, x: int, n: int, h: int, w: int, c: int, padding: Padding, out: int, threads: int, /
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
