"""Every kernel compiles for a GPU, be there one or not: the interpreter takes more than the compiler."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from ninefold.gpu import (  # noqa: E402
    between,
    depthwise,
    depthwise_weight,
    launch,
    pointwise,
    pointwise_weight,
    separable,
    statistics,
)
from ninefold.gpu.window import Window  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
WINDOW = Window((3, 3), (2, 2), (0, 1, 0, 1), (1, 1))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Compile for Hopper what would be started, and name it."""
    names: list[str] = []

    def compile_(kernel: Any, grid: Any, *args: Any, config: launch.Config, **constants: Any) -> None:
        signature = dict.fromkeys(constants, "constexpr")
        attributes = {}
        for place, (name, arg) in enumerate(zip(kernel.arg_names, args, strict=False)):
            if arg is None:
                signature[name], constants[name] = "constexpr", None
            elif isinstance(arg, torch.Tensor):
                signature[name] = TYPES[arg.dtype]
            else:
                signature[name] = "i32" if isinstance(arg, int) else "fp32"
            free = isinstance(arg, int) and name not in kernel.do_not_specialize
            if isinstance(arg, torch.Tensor) or (free and arg % 16 == 0):
                attributes[(place,)] = [["tt.divisibility", 16]]
            elif free and arg == 1:
                signature[name], constants[name] = "constexpr", 1
        made = triton.compile(
            ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants, attributes),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": config.warps, "num_stages": config.stages},
        )
        assert made.metadata.shared <= 227 * 1024
        assert not told_twice(made.asm["ttgir"]), kernel.fn.__name__
        registers, spilled = usage(made.asm["cubin"], tmp_path)
        # A word or two lie there in any case; what has too few registers spills by the hundred.
        assert registers <= 255 and spilled <= 32, (kernel.fn.__name__, registers, spilled)
        names.append(kernel.fn.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "run", compile_)
    yield names


def usage(cubin: bytes, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes that it keeps in memory for want of them."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    told = subprocess.run(
        [CUOBJDUMP, "-res-usage", str(file)], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found, told
    return int(found[1]), int(found[2])


def told_twice(program: str) -> list[str]:
    """Layouts that a program adds up although lanes or warps amid the others repeat what those hold.

    Triton 3.6 and 3.7 then add some rows twice and leave out as many.
    """
    layouts = dict(re.findall(r"^(#\w+) = #ttg\.linear<{(.*)}>$", program, re.MULTILINE))
    added = re.findall(r'"tt\.reduce".*?\}\) : \((.*?)\) ->', program, re.DOTALL)
    used = {name for what in added for name in re.findall(r"#\w+", what) if name in layouts}
    found = []
    for name in sorted(used):
        for who in ("lane", "warp"):
            steps = re.search(rf"{who} = \[\[(.*?)\]\]", layouts[name])
            moves = [any(map(int, step.split(","))) for step in steps[1].split("], [")] if steps else []
            if sorted(moves, reverse=True) != moves:
                found.append(f"{name}: {layouts[name]}")
    return found


@pytest.mark.parametrize("size", [1, 4096])
def test_no_grid_exceeds_what_a_gpu_takes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    grids: list[tuple[int, ...]] = []
    monkeypatch.setattr(launch, "run", lambda kernel, grid, *args, **named: grids.append(grid))
    x, one = image(32, size), Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    reduced: dict[str, Any] = {"moments": table(2, 32, torch.float32)}
    for more in ({}, reduced):
        config = pointwise.configs(32, 32, reduces=bool(more))[0]
        pointwise.pointwise(x, table(32, 32), config=config, **more)
        config = depthwise.configs(one, (size, size), 32)[0]
        depthwise.depthwise(x, table(9, 32), one, (size, size), config=config, **more)
    config = separable.configs(one, (size, size), 32, 32)[0]
    separable.separable(x, table(9, 32), table(32, 32), one, config=config)
    # CUDA's limits: 2³¹ - 1 programs on the first axis, 65,535 on the others.
    assert len(grids) >= 5
    assert all(grid[0] < 2**31 and all(extent <= 65535 for extent in grid[1:]) for grid in grids)


def image(channels: int, size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    made = torch.empty(8, channels, size, size, dtype=dtype, device="meta")
    return made.contiguous(memory_format=torch.channels_last)


def table(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(rows, columns, dtype=dtype, device="meta")


NUMBERS = table(4, 32, torch.float32)
READ: dict[str, Any] = {"read": "relu6", "numbers": NUMBERS}
BACK: dict[str, Any] = {"numbers": NUMBERS, "beside": image(32, 15), "turn": table(3, 32, torch.float32)}
CASES: dict[str, Callable[[], Any]] = {
    "depthwise": lambda: depthwise.depthwise(
        image(32, 30),
        table(9, 32),
        WINDOW,
        (15, 15),
        config=depthwise.configs(WINDOW, (15, 15), 32)[0],
        moments=table(2, 32, torch.float32),
        **READ,
    ),
    "depthwise input gradient": lambda: depthwise.depthwise(
        image(32, 15),
        table(9, 32),
        WINDOW,
        (30, 30),
        config=depthwise.configs(WINDOW, (30, 30), 32, backward=True)[0],
        backward=True,
        activation="silu",
        below=image(32, 30),
        below_numbers=NUMBERS,
        **BACK,
    ),
    "depthwise weight": lambda: depthwise_weight.depthwise_weight(
        image(32, 15), image(32, 30), WINDOW, config=depthwise_weight.configs(WINDOW, (15, 15), 32)[0], **READ
    ),
    "pointwise": lambda: pointwise.pointwise(
        image(32, 15),
        table(64, 32),
        config=pointwise.configs(32, 64, reduces=True)[0],
        moments=table(2, 64, torch.float32),
        activation="gelu",
        **READ,
    ),
    "pointwise input gradient": lambda: pointwise.pointwise(
        image(32, 15),
        table(32, 64),
        config=pointwise.configs(32, 64, reduces=True)[0],
        transposed=True,
        below=image(64, 15),
        below_numbers=table(4, 64, torch.float32),
        activation="relu",
        **BACK,
    ),
    "pointwise weight": lambda: pointwise_weight.pointwise_weight(
        image(64, 15), image(32, 15), config=pointwise_weight.configs(32, 64)[0], **READ
    ),
    "separable": lambda: separable.separable(
        image(32, 30),
        table(9, 32),
        table(64, 32),
        WINDOW,
        config=separable.configs(WINDOW, (15, 15), 32, 64)[0],
        depthwise_activation="relu6",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_kernel_compiles_for_hopper(case: str, compiled: list[str]) -> None:
    CASES[case]()
    assert compiled and compiled[0] == case.replace(" input gradient", "").replace(" ", "_") + "_kernel"


@pytest.mark.parametrize("channels", [8, 64])
def test_float32_to_the_last_bit(channels: int, compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Without matrix units a thread holds other rows of a product: no pairs of them must be added.
    monkeypatch.setattr(launch, "precision", lambda: "ieee")
    x, weight = image(32, 15, torch.float32), table(channels, 32, torch.float32)
    moments = table(2, channels, torch.float32)
    config = pointwise.configs(32, channels, reduces=True)[0]
    pointwise.pointwise(x, weight, config=config, moments=moments)
    assert compiled[0] == "pointwise_kernel"
    monkeypatch.setattr(launch, "paired", lambda x: True)
    with pytest.raises(AssertionError, match="told_twice"):
        pointwise.pointwise(x, weight, config=config, moments=moments)


def test_what_stands_between_compiles(compiled: list[str]) -> None:
    z, gamma = image(32, 15), torch.empty(32, dtype=torch.bfloat16, device="meta")
    between.apply(z, NUMBERS, "hardswish", z)
    between.turn(z, z, NUMBERS, table(3, 32, torch.float32))
    between.reduce(z, NUMBERS, "gelu_tanh", z)
    between.moments(z, table(2, 32, torch.float32))
    between.normalise(NUMBERS, gamma, gamma, 1e-5)
    between.normalise_backward(NUMBERS, None, 1e-5, table(2, 32, torch.float32), 9, True)
    wanted = ["apply", "turn", "reduce", "sum", "moments", "merge", "normalise", "normalise_backward"]
    assert compiled == [f"{name}_kernel" for name in wanted]


def test_the_merging_kernels_compile(compiled: list[str]) -> None:
    statistics.moments(torch.empty(1000 * (2 * 32 + 1), device="meta"), 1000, 32, table(2, 32, torch.float32))
    statistics.total(table(1000, 32, torch.float32), torch.bfloat16)
    assert compiled == ["merge_kernel", "merge_kernel", "sum_kernel", "sum_kernel"]
