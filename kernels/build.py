"""Compiles the kernels, ahead of time, one build target each. CMake is its caller.

    python build.py list    --isas native                the kernels' names, one a line
    python build.py kernel  --name avx2.depthwise_3x3_s1 -o DIR
                           --assembler c++           with the prefetches of ahead.py
    python build.py table   --isas all -o DIR            the C++ table of what was compiled
    python build.py runtime -o DIR                       Halide's own small runtime, once

A name is `instruction set.kernel`; KERNELS below is the one list that drives compilation, table and dispatch.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import ahead
from targets import INSTRUCTION_SETS, InstructionSet

# The kernels of one instruction set: C name -> a function that makes (Func, arguments). Halide is imported
# by the operators' modules, so only where a kernel is really compiled.
Maker = Callable[[InstructionSet], tuple]


def kernels(isa: InstructionSet) -> dict[str, Maker]:
    """Every kernel of one instruction set, by name."""
    import batchnorm
    import conv2d
    import depthwise
    import epilogue
    import gradient
    import limits
    import normalisation
    import pointwise
    import pooling
    import winograd

    made: dict[str, Maker] = {}
    for size, stride in depthwise.SPECIALISED:
        name = f"depthwise_{size}x{size}_s{stride}"
        if depthwise.has_inner(isa, size, stride):
            for wide, columns in depthwise.widths(isa, stride).items():
                made[f"{name}{wide}"] = lambda isa, k=size, s=stride, n=columns: depthwise.inner(isa, k, s, n)
        made[f"{name}_border"] = lambda isa, k=size, s=stride: depthwise.border(isa, k, s)
        if depthwise.has_narrow(isa):
            made[f"{name}_narrow"] = lambda isa, k=size, s=stride: depthwise.narrow(isa, k, s)
    for variant in depthwise.VARIANTS:
        made[f"depthwise_{variant}"] = lambda isa, v=variant: depthwise.anywhere(isa, v)
    made["depthwise_flat"] = depthwise.flat
    for width, heights in isa.tiles.items():
        for pixels in heights:
            made[f"pointwise_{pixels}x{width}"] = lambda isa, w=width, p=pixels: pointwise.pointwise(
                isa, w, p
            )
    made["pointwise_few"] = pointwise.few
    for width, heights in isa.conv2d_tiles.items():
        for columns in heights:
            made[f"conv2d_{columns}x{width}"] = lambda isa, w=width, n=columns: conv2d.conv2d(isa, w, n)
    for stride in winograd.SCHEMES:
        made[f"winograd_before_s{stride}"] = lambda isa, s=stride: winograd.before(isa, s)
        made[f"winograd_after_s{stride}"] = lambda isa, s=stride: winograd.after(isa, s)
    made["epilogue_activation"] = epilogue.activation
    made["epilogue_add"] = epilogue.add
    made["epilogue_clip"] = epilogue.clipped
    made["pooling_mean"] = pooling.mean
    made["pooling_scale"] = pooling.scale
    made["pooling_largest"] = pooling.largest
    made["pooling_average"] = pooling.average
    made["normalisation_layer"] = normalisation.layer_norm
    for name in ("apply", "turn", "statistics", "sums", "slope"):
        made[f"batchnorm_{name}"] = getattr(batchnorm, name)
    for size in (*gradient.SIZES, None):
        made[f"gradient_weight_{size or 'any'}"] = lambda isa, k=size: gradient.depthwise_weight(isa, k)
    for size in (*gradient.PARITY_SIZES, None):
        made[f"gradient_input_{size or 'any'}"] = lambda isa, k=size: gradient.depthwise_input(isa, k)
    for width, heights in isa.weight_tiles.items():
        for rows in heights:
            made[f"gradient_pointwise_{rows}x{width}"] = lambda isa, w=width, r=rows: (
                gradient.pointwise_weight(isa, w, r)
            )
    made["limit_fma"] = limits.fma
    made["limit_copy"] = limits.copy
    return made


# Flags of /proc/cpuinfo that an instruction set needs; none: every processor of the architecture has it.
_NEEDS = {
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "avx2": {"avx2", "fma", "f16c"},
}


def chosen(isas: str) -> list[InstructionSet]:
    """The instruction sets that "all", "native" or a comma-separated list stands for, best first."""
    arm = platform.machine().lower() in ("aarch64", "arm64")
    here = [row for row in INSTRUCTION_SETS.values() if row.target.startswith("arm") == arm]
    if isas == "all":
        return here
    if isas == "native":
        flags = set() if arm else set(_processor_flags())
        return [next(row for row in here if _NEEDS.get(row.name, set()) <= flags)]
    unknown = set(isas.split(",")) - INSTRUCTION_SETS.keys()
    if unknown:
        raise SystemExit(f"`isas` must be all, native or of {', '.join(INSTRUCTION_SETS)}, got {isas}")
    return [INSTRUCTION_SETS[name] for name in isas.split(",")]


def _processor_flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line.split(":")[1].split()
    return []


def compile_kernel(
    name: str, folder: Path, sanitizer: str | None = None, assembler: str | None = None
) -> None:
    """Write one kernel's object file, and say what it cost; `sanitizer` is watched for by verification/.

    With an `assembler` (a C or C++ compiler) those that stream memory ask for it ahead (`ahead.py`).
    """
    import halide as hl

    isa_name, kernel = name.split(".")
    isa = INSTRUCTION_SETS[isa_name]
    start = time.perf_counter()
    func, arguments = kernels(isa)[kernel](isa)
    path = folder / f"{name}.o"
    features = isa.features + {None: "", "address": "-asan", "thread": "-tsan"}[sanitizer]
    symbol, target = f"ninefold_{isa_name}_{kernel}", hl.Target(features)
    if assembler and (edit := ahead.edit(isa.target, kernel)):
        words = path.with_suffix(".s")
        func.compile_to({hl.OutputFileType.assembly: str(words)}, arguments, symbol, target)
        words.write_text(edit(words.read_text()))
        subprocess.run([assembler, "-c", str(words), "-o", str(path)], check=True)
    else:
        func.compile_to({hl.OutputFileType.object: str(path)}, arguments, symbol, target)
    print(f"{name}: {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


def write_table(isas: list[InstructionSet], folder: Path) -> None:
    """Write table.cpp: every kernel declared, and one row of function pointers per instruction set."""
    lines = ['#include "kernels.h"', "", "namespace ninefold {", 'extern "C" {']
    rows = []
    for isa in isas:
        for kernel in kernels(isa):
            lines.append(f"{_c_type(kernel)} ninefold_{isa.name}_{kernel};")
        rows.append(_table_row(isa))
    lines += [
        "}",
        "",
        "const std::vector<Kernels>& compiled() {",
        "  static const std::vector<Kernels> rows = {",
    ]
    lines += rows
    lines += ["  };", "  return rows;", "}", "}  // namespace ninefold", ""]
    (folder / "table.cpp").write_text("\n".join(lines))


def _c_type(kernel: str) -> str:
    kinds = {
        "conv2d": "Conv2dKernel",
        "pointwise": "PointwiseKernel",
        "pointwise_few": "PointwiseFewKernel",
        "winograd_before": "BeforeKernel",
        "winograd_after": "AfterKernel",
        "epilogue_activation": "EpilogueKernel",
        "epilogue_add": "AddKernel",
        "epilogue_clip": "ClipKernel",
        "pooling_mean": "MeanKernel",
        "pooling_scale": "AddKernel",
        "pooling_largest": "MeanKernel",
        "pooling_average": "MeanKernel",
        "normalisation_layer": "LayerNormKernel",
        "batchnorm_apply": "ApplyKernel",
        "batchnorm_turn": "TurnKernel",
        "batchnorm_statistics": "StatisticsKernel",
        "batchnorm_sums": "SumsKernel",
        "batchnorm_slope": "SlopeKernel",
        "gradient_weight": "DepthwiseWeightKernel",
        "gradient_input": "ParityKernel",
        "gradient_input_any": "DepthwiseInputKernel",
        "gradient_pointwise": "PointwiseWeightKernel",
        "limit_fma": "FmaKernel",
        "limit_copy": "CopyKernel",
        "depthwise_3": "DepthwiseSizedKernel",
        "depthwise_5": "DepthwiseSizedKernel",
        "depthwise_7": "DepthwiseSizedKernel",
        "depthwise": "DepthwiseAnywhereKernel",
        "depthwise_flat": "DepthwiseFlatKernel",
    }
    return kinds[max((k for k in kinds if kernel.startswith(k)), key=len)]


_KINDS = ("", "_wide", "_border", "_narrow")  # of sized depthwise kernels, in the order of the table


def _table_row(isa: InstructionSet) -> str:
    import activations
    import depthwise
    import gradient
    import limits
    import winograd

    all_of_them = kernels(isa)

    def symbol(kernel: str) -> str:
        return f"ninefold_{isa.name}_{kernel}"

    def sized(size: int, stride: int) -> str:
        name = f"depthwise_{size}x{size}_s{stride}"
        kinds = [symbol(f"{name}{kind}") if name + kind in all_of_them else "nullptr" for kind in _KINDS]
        return f"{{{size}, {stride}, {', '.join(kinds)}}}"

    specialised = ", ".join(sized(*each) for each in depthwise.SPECIALISED)

    def panels(operator: str, tiles: dict[int, tuple[int, ...]]) -> str:
        return ", ".join(
            f"{{{width}, {{"
            + ", ".join(f"{{{n}, {symbol(f'{operator}_{n}x{width}')}}}" for n in heights)
            + "}}"
            for width, heights in sorted(tiles.items())
        )

    transforms = ", ".join(
        f"{{{s}, {len(scheme.results)}, {{{', '.join(map(str, scheme.groups))}}}, "
        f"{symbol(f'winograd_before_s{s}')}, {symbol(f'winograd_after_s{s}')}}}"
        for s, scheme in winograd.SCHEMES.items()
    )
    epilogues, slopes = (
        ", ".join(f'"{name}"' for name in names) for names in (activations.EPILOGUES, activations.SLOPES)
    )
    sizes = ", ".join(f"{{{k}, {symbol(f'gradient_weight_{k}')}}}" for k in gradient.SIZES)
    parities = ", ".join(f"{{{k}, {symbol(f'gradient_input_{k}')}}}" for k in gradient.PARITY_SIZES)
    matrices = ", ".join(
        f"{{{width}, {{"
        + ", ".join(f"{{{r}, {symbol(f'gradient_pointwise_{r}x{width}')}}}" for r in heights)
        + "}}"
        for width, heights in sorted(isa.weight_tiles.items())
    )
    anywhere = ", ".join(symbol(f"depthwise_{variant}") for variant in (*depthwise.VARIANTS, "flat"))
    return f"""    {{"{isa.name}", {isa.lanes},
     {isa.depthwise_columns}, {isa.depthwise_wide_columns}, {isa.depthwise_rows},
     {depthwise.BORDER_COLUMNS},
     {isa.lanes * isa.depthwise_vectors},
     {{{specialised}}},
     {anywhere},
     {{{panels("pointwise", isa.tiles)}}}, {symbol("pointwise_few")},
     {{{panels("conv2d", isa.conv2d_tiles)}}},
     {{{transforms}}},
     {symbol("epilogue_activation")}, {{{epilogues}}},
     {symbol("epilogue_add")}, {symbol("epilogue_clip")}, {symbol("pooling_mean")}, {symbol("pooling_scale")},
     {symbol("pooling_largest")}, {symbol("pooling_average")},
     {symbol("normalisation_layer")},
     {symbol("batchnorm_apply")}, {symbol("batchnorm_turn")}, {symbol("batchnorm_statistics")},
     {symbol("batchnorm_sums")}, {symbol("batchnorm_slope")}, {{{slopes}}},
     {{{sizes}}}, {symbol("gradient_weight_any")}, {{{parities}}}, {symbol("gradient_input_any")},
     {{{matrices}}},
     {symbol("limit_fma")}, {symbol("limit_copy")},
     {isa.lanes * limits.VECTORS}}},"""


def compile_runtime(isas: list[InstructionSet], folder: Path) -> None:
    """Write runtime.o: what the kernels call when a bound is wrong."""
    import halide as hl

    hl.compile_standalone_runtime(str(folder / "runtime.o"), hl.Target(isas[-1].target))


def main() -> None:
    """Run one step of the build."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("list", "kernel", "table", "runtime"))
    parser.add_argument("--isas", default="all")
    parser.add_argument("--name")
    parser.add_argument("--sanitize", choices=("address", "thread"))
    parser.add_argument("--assembler")
    parser.add_argument("-o", "--output", type=Path, default=Path("."))
    arguments = parser.parse_args()
    if arguments.step == "kernel":
        compile_kernel(arguments.name, arguments.output, arguments.sanitize, arguments.assembler)
        return
    isas = chosen(arguments.isas)
    if arguments.step == "list":
        print(os.linesep.join(f"{isa.name}.{kernel}" for isa in isas for kernel in kernels(isa)))
    elif arguments.step == "table":
        write_table(isas, arguments.output)
    else:
        compile_runtime(isas, arguments.output)


if __name__ == "__main__":
    main()
