"""Every kernel compiles for a GPU, be there one or not: the interpreter takes more than the compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from ninefold.gpu import (  # noqa: E402
    depthwise,
    depthwise_weight,
    launch,
    pointwise,
    pointwise_weight,
    separable,
    statistics,
)
from ninefold.gpu.window import Window  # noqa: E402

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
            else:
                signature[name] = TYPES[arg.dtype] if isinstance(arg, torch.Tensor) else "i32"
            if isinstance(arg, torch.Tensor) or (isinstance(arg, int) and arg % 16 == 0):
                attributes[(place,)] = [["tt.divisibility", 16]]
        made = triton.compile(
            ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants, attributes),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": config.warps, "num_stages": config.stages},
        )
        assert made.asm["cubin"]
        assert made.metadata.shared <= 227 * 1024
        names.append(kernel.fn.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "run", compile_)
    yield names


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
        moments=True,
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
        config=pointwise.configs(32, 64)[0],
        moments=True,
        activation="gelu",
        **READ,
    ),
    "pointwise input gradient": lambda: pointwise.pointwise(
        image(32, 15),
        table(32, 64),
        config=pointwise.configs(32, 64)[0],
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


def test_the_merging_kernels_compile(compiled: list[str]) -> None:
    statistics.moments(torch.empty(1000 * (2 * 32 + 1), device="meta"), 1000, 32)
    statistics.total(table(1000, 32, torch.float32), torch.bfloat16)
    assert compiled == ["merge_kernel", "merge_kernel", "sum_kernel", "sum_kernel"]
