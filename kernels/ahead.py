"""Asks for memory before it is needed: what Halide cannot say, put into its assembly.

Halide's own `prefetch` knows one hint, PREFETCHNTA, whose lines leave the first cache without a trace in the
second. The first has no room for as much as must be under way.

A network's weights come from memory or the third cache, once a call. While the first tile of pixels passes a
panel of weights, it waits for them; the tiles after it find them in the second cache, and memory idles. So
each load of weights in an innermost loop is followed by a prefetch of what lies DISTANCE bytes further: the
next panel's, and behind the last panel, since packed weights lie side by side in the order of the layers,
the next layer's. A prefetch past the end touches nothing. With Halide's hint layers were 0 to 10 % slower.

One Zen 4 core, whole networks, in turns with the same kernels without it: xception41 3.3 %, mnasnet_100 2.5,
mobilenetv1_100 and mobilenetv4_conv_small 2 % faster. 16 to 64 KB are the same; 128 KB, or the first cache
instead of the second (PREFETCHT0), gain nothing. Tiles of one pixel only stream: there it cost up to 3 %.

Images that training normalises or turns are asked for by Halide's `prefetch` (batchnorm.py), which knows
where they lie; the hint becomes the second level's, and reading from memory up to half as fast again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

DISTANCE = 32 * 1024

# The kernels that Halide lets ask for images.
_HINTED = ("batchnorm_apply", "batchnorm_turn")
# The kernels whose vectors are weights: all but the tiles of one pixel.
_KERNELS = re.compile(r"(pointwise|conv2d)_(?!1x)\d+x\d+")
_LABEL = re.compile(r"(\.L\w+):")
_JUMP = re.compile(r"\s+j\w+\s+(\.L\w+)")
_LOAD = re.compile(r"\s+vmovu?a?ps\s+(-?\d*)(\(%\w+(?:,%\w+)?(?:,\d)?\)), %[yz]mm")


def edit(target: str, kernel: str) -> Callable[[str], str] | None:
    """What to do to a kernel's assembly, if anything."""
    if suits(target, kernel):
        return with_prefetches
    return into_second_cache if target.startswith("x86") and kernel in _HINTED else None


def suits(target: str, kernel: str) -> bool:
    """Whether a kernel streams weights, and its instruction set has the words: x86 with a multiply-add."""
    return target.startswith("x86") and "-fma" in target and _KERNELS.fullmatch(kernel) is not None


def with_prefetches(assembly: str) -> str:
    """The assembly with a prefetch behind each vector load of the innermost loops that multiply and add.

    In those the image is broadcast, number by number, and vectors are weights. Raises ValueError where there
    is no such load: the compiler has found other words for the loop.
    """
    lines = assembly.split("\n")
    edited, start, label, found = list(lines), 0, "", 0
    for number, line in enumerate(lines):
        if entered := _LABEL.match(line):
            start, label = number, entered[1]
        jump = _JUMP.match(line)
        if jump is None or jump[1] != label:
            continue
        body = range(start, number)
        if not any("vfmadd" in lines[k] for k in body):
            continue
        for k in body:
            if load := _LOAD.match(lines[k]):
                offset = int(load[1] or 0) + DISTANCE
                edited[k] = f"{lines[k]}\n\tprefetcht1\t{offset}{load[2]}"
                found += 1
    if not found:
        raise ValueError("the assembly must have a loop that loads vectors and multiplies, got none")
    return "\n".join(edited)


def into_second_cache(assembly: str) -> str:
    """The assembly with its hints for the second cache. Raises ValueError where there are none."""
    if "prefetchnta" not in assembly:
        raise ValueError("the assembly must have a PREFETCHNTA, got none")
    return assembly.replace("prefetchnta", "prefetcht1")
