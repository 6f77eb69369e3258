"""Sums over a window's taps, for a patch of neighbouring outputs per lane: the core of the depthwise kernels.

A lane makes PATCH_Y×PATCH_X outputs and reads each value that they share once: 3×3 at stride 1 takes 4 loads
per output with 2×2 patches where one output alone takes 9; 7×7 takes 12 with 1×8 instead of 49. Which tap of
which output a value belongs to is known when the kernel is compiled.

So is CHANNELS: a load then holds its place in the row itself, and a fused pixel of 32→64 takes 723
instructions of a warp and 92 registers, not 1,102 and 210 (on an H200 the layer 145 µs, not 196).

The input gradient is the same sum seen from the other side. Of an input's taps only those count whose output
lies on the stride's grid; patches begin on that grid, so those taps too are known beforehand: at stride 2 a
quarter of the window's products are made, none masked away. `window.py` has the one equation for both.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ninefold.gpu.language import existing, read, vector, within


@triton.jit
def sums(
    image,
    beside,
    numbers,
    turn,
    weight,
    y,
    x,
    live,
    height,
    width,
    CHANNELS: tl.constexpr,
    c,
    ACTIVATION: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    SIGN: tl.constexpr,
    OUT_Y: tl.constexpr,
    IN_Y: tl.constexpr,
    BEFORE_Y: tl.constexpr,
    DILATION_Y: tl.constexpr,
    FIRST_Y: tl.constexpr,
    LAST_Y: tl.constexpr,
    PATCH_Y: tl.constexpr,
    OUT_X: tl.constexpr,
    IN_X: tl.constexpr,
    BEFORE_X: tl.constexpr,
    DILATION_X: tl.constexpr,
    FIRST_X: tl.constexpr,
    LAST_X: tl.constexpr,
    PATCH_X: tl.constexpr,
):
    """PATCH_Y·PATCH_X tiles (lanes, channels) of sums, in float32.

    `image` and `beside` point at the first pixel of one image (height, width, CHANNELS), `weight` is (taps,
    CHANNELS). Lane l's patch begins at output (y[l], x[l]); only `live` lanes read.
    """
    base_y, base_x = y * OUT_Y // IN_Y, x * OUT_X // IN_X
    corner = ((base_y * width + base_x) * CHANNELS)[:, None] + c[None, :]
    image, beside = image + corner, beside + corner
    # What is not live begins below every image, so that one comparison a row says both.
    base_y = tl.where(live, base_y, 1 << 30)
    made = ()
    for _ in tl.static_range(PATCH_Y * PATCH_X):
        made = made + (tl.zeros((y.shape[0], c.shape[0]), tl.float32),)
    for a in tl.static_range(FIRST_Y, LAST_Y):
        inside_y = within(base_y + a, height)
        image_row, beside_row = image + a * width * CHANNELS, beside + a * width * CHANNELS
        values = ()
        for b in tl.static_range(FIRST_X, LAST_X):
            mask = existing(inside_y & within(base_x + b, width), c, CHANNELS)
            value = read(image_row, beside_row, b * CHANNELS, mask, numbers, turn, CHANNELS, c, ACTIVATION)
            values = values + (value,)
        more = ()
        for r in tl.static_range(PATCH_Y):
            for q in tl.static_range(PATCH_X):
                total = made[r * PATCH_X + q]
                for i in tl.static_range(TALL):
                    if r * OUT_Y + SIGN * (i * DILATION_Y - BEFORE_Y) == a * IN_Y:
                        for j in tl.static_range(WIDE):
                            for b in tl.static_range(FIRST_X, LAST_X):
                                if q * OUT_X + SIGN * (j * DILATION_X - BEFORE_X) == b * IN_X:
                                    w = vector(weight + (i * WIDE + j) * CHANNELS, CHANNELS, c, 0.0)
                                    total += values[b - FIRST_X] * w[None, :]
                more = more + (total,)
        made = more
    return made
