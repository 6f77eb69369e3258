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

While a product multiplies, memory idles, and what the next band reads and writes is known. No more than some
24 lines can be under way at a time, so they must be spread over the product's innermost loops: those of the
tall tiles stand twice, and the second time each step asks for a line of each of two streams and moves them
on. One stream is left where one register is: in a depthwise weight's gradient, which asks for what the
input's will be written to. Which loop runs is decided once a tile, by `ninefold_ahead` (runtime/ahead.h): the
loop around the bands sets it around a call, for a kernel has no argument that would still be in a register
there. Inference does so between the bands of a fused layer (runtime/separable.cpp) and takes the first loop
elsewhere. In training, with it and bands of half the size, whose successor has room beside them,
mobilenetv2_100's step takes 0.95 of its processor time, mobilenetv3_large_100's the same, mobilenetv1_100's
and efficientnet_lite0's 0.97; mobilenetv2_100's depthwise layers backward 0.94, and 0.97 of that since the
sums of batch-norm, which read from the cache, ask for the next band too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial, reduce

DISTANCE = 32 * 1024

# The kernels that Halide lets ask for images.
_HINTED = ("batchnorm_apply", "batchnorm_turn")
# The kernels whose vectors are weights: all but the tiles of one pixel.
_KERNELS = re.compile(r"(pointwise|conv2d)_(?!1x)\d+x\d+")
# The kernel that streams an image past a few weights, by operands of its multiply-adds.
_READING = "pointwise_few"
# The kernels that ask for what their caller will want next.
_STREAMING = re.compile(r"(gradient_)?pointwise_(?!1x)\d+x\d+|gradient_weight_\d|batchnorm_sums")
_LABEL = re.compile(r"(\.L\w+):")
_JUMP = re.compile(r"\s+j\w+\s+(\.L\w+)")
_LOAD = re.compile(r"\s+vmovu?a?ps\s+(-?\d*)(\(%\w+(?:,%\w+)?(?:,\d)?\)), %[yz]mm")
_OPERAND = re.compile(r"\s+vfmadd\d+ps\s+(-?\d*)(\(%\w+(?:,%\w+)?(?:,\d)?\)), %[yz]mm")


def edit(target: str, kernel: str) -> Callable[[str], str] | None:
    """What to do to a kernel's assembly, if anything."""
    edits: list[Callable[[str], str]] = []
    if suits(target, kernel):
        edits.append(with_prefetches)
    if target.startswith("x86") and "-fma" in target and kernel == _READING:
        edits.append(partial(with_prefetches, word=_OPERAND))
    if target.startswith("x86") and "-fma" in target and _STREAMING.fullmatch(kernel):
        edits.append(with_streams)
    if target.startswith("x86") and kernel in _HINTED:
        edits.append(into_second_cache)
    return (lambda assembly: reduce(lambda text, change: change(text), edits, assembly)) if edits else None


def suits(target: str, kernel: str) -> bool:
    """Whether a kernel streams weights, and its instruction set has the words: x86 with a multiply-add."""
    return target.startswith("x86") and "-fma" in target and _KERNELS.fullmatch(kernel) is not None


def with_prefetches(assembly: str, word: re.Pattern[str] = _LOAD) -> str:
    """The assembly with a prefetch behind each vector load of the innermost loops that multiply and add.

    In those the image is broadcast, number by number, and vectors are weights; or, where `word` is for those,
    vectors are the image's and operands of the multiply-adds. Raises ValueError where there is no such load:
    the compiler has found other words for the loop.
    """
    lines = assembly.split("\n")
    edited = list(lines)
    for loop in _loops(lines):
        for k in loop:
            if load := word.match(lines[k]):
                offset = int(load[1] or 0) + DISTANCE
                edited[k] = f"{lines[k]}\n\tprefetcht1\t{offset}{load[2]}"
    if edited == lines:
        raise ValueError("the assembly must have a loop with such loads, got none")
    return "\n".join(edited)


def with_streams(assembly: str) -> str:
    """The assembly with each of those loops once more, asking for streams; `ninefold_ahead` chooses.

    For two, where two registers are to spare, else for the first. Raises ValueError where a loop is entered
    from elsewhere, uses the stack, leaves no register free or counts its steps before it loads: the additions
    of a stream would change what the jump asks.
    """
    lines = assembly.split("\n")
    edited, copies = list(lines), []
    for index, loop in enumerate(_loops(lines)):
        body = [lines[k].split("#")[0].rstrip() for k in loop]
        text = "\n".join(body)
        label, entry = body[0].rstrip(":"), loop[0]
        entries = sum(re.search(re.escape(label) + r"\b", line) is not None for line in lines) - 1
        streams = [name for name, word in _SPARE.items() if not re.search(word, text)][:2]
        loads = [k for k, line in enumerate(body) if _LOAD.match(line)]
        counted = any(_COUNT.match(line) for line in body[loads[-1] + 1 :])
        if entries != 1 or "%rsp" in text or not streams or not counted:
            raise ValueError(f"a loop must be closed, with a register to spare, got\n{text}")
        while lines[entry - 1].lstrip().startswith((".p2align", "#")):
            entry -= 1
        edited[entry - 1] += _ENTER.format(one=streams[0], index=index)
        edited[loop[-1]] += f"\n.Lstreamed_{index}:"
        for k, name in reversed(list(zip((loads[0], loads[-1]), streams, strict=False))):
            step = 8 * (len(streams) - 1 - streams.index(name))
            body.insert(k + 1, f"\tprefetcht1\t(%{name})\n\taddq\t{step}(%rsp), %{name}")
        inner = "\n".join(body[1:]).replace(label, f".Lstream_loop_{index}")
        template = _COPY if len(streams) == 2 else _COPY_OF_ONE
        copies.append(template.format(one=streams[0], other=streams[-1], index=index, body=inner))
    start = next(k for k, line in enumerate(lines) if _FUNCTION.match(line))
    section = next(line for line in reversed(lines[:start]) if _CODE.match(line))
    # A name, so that a profiler does not show bare addresses.
    name = lines[start].split(":")[0] + "_streams"
    named = f"\t.type\t{name},@function\n{name}:"
    return "\n".join([*edited, section, named, *copies, f"\t.size\t{name}, .-{name}", ""])


# Registers, and by what names an instruction may use them.
_SPARE = {f"r{k}": rf"%r{k}[dwb]?\b" for k in range(8, 16)} | {"rdx": r"%(rdx|edx|dx|dl|dh)\b"}
_FUNCTION, _CODE = re.compile(r"ninefold_\w+:"), re.compile(r"\s*\.(text\b|section\s+\.text)")
_COUNT = re.compile(r"\s+(add|sub|inc|dec|cmp|test)q\s")
_ENTER = """
	pushq	%{one}
	movq	ninefold_ahead@gottpoff(%rip), %{one}
	cmpq	$0, %fs:(%{one})
	jne	.Lstream_{index}
	popq	%{one}"""
# The steps lie on the stack, where an addition can read them. These kernels keep nothing below it, for they
# call functions: those that report an error.
_COPY = """.Lstream_{index}:
	pushq	%{other}
	pushq	%fs:16(%{one})
	pushq	%fs:24(%{one})
	movq	%fs:8(%{one}), %{other}
	movq	%fs:(%{one}), %{one}
	.p2align	4
.Lstream_loop_{index}:
{body}
	movq	%{one}, 8(%rsp)
	movq	%{other}, (%rsp)
	movq	ninefold_ahead@gottpoff(%rip), %{one}
	popq	%fs:8(%{one})
	popq	%fs:(%{one})
	popq	%{other}
	popq	%{one}
	jmp	.Lstreamed_{index}"""
_COPY_OF_ONE = """.Lstream_{index}:
	pushq	%fs:16(%{one})
	movq	%fs:(%{one}), %{one}
	.p2align	4
.Lstream_loop_{index}:
{body}
	movq	%{one}, (%rsp)
	movq	ninefold_ahead@gottpoff(%rip), %{one}
	popq	%fs:(%{one})
	popq	%{one}
	jmp	.Lstreamed_{index}"""


def _loops(lines: list[str]) -> list[range]:
    """The innermost loops that load vectors, multiply and add, from label to jump; ValueError if none."""
    found, start, label = [], 0, ""
    for number, line in enumerate(lines):
        if entered := _LABEL.match(line):
            start, label = number, entered[1]
        jump = _JUMP.match(line)
        if jump is None or jump[1] != label:
            continue
        body = lines[start : number + 1]
        if any("vfmadd" in each for each in body) and any(_LOAD.match(each) for each in body):
            found.append(range(start, number + 1))
    if not found:
        raise ValueError("the assembly must have a loop that loads vectors and multiplies, got none")
    return found


def into_second_cache(assembly: str) -> str:
    """The assembly with its hints for the second cache. Raises ValueError where there are none."""
    if "prefetchnta" not in assembly:
        raise ValueError("the assembly must have a PREFETCHNTA, got none")
    return assembly.replace("prefetchnta", "prefetcht1")
