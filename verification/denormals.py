"""`make denormals`: what a call costs whose numbers lie below 2⁻¹²⁶, against the same call of ordinary ones.

An operator, forward and one training step, timed in turns with an image, weights or a gradient of denormals.
More than twice the time is a failure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch

import record
from ninefold import measure, ops

_MOST = 2.0
_DENORMAL = 1e-39

Tensors = dict[str, torch.Tensor]


def main() -> int:
    """Time; 0 if no call became twice as slow."""
    parser = argparse.ArgumentParser(prog="make denormals", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="what was counted into results.json")
    options = parser.parse_args()
    slow = 0
    with measure.torch_threads(options.threads):
        for name, call in OPERATORS.items():
            for what, run in (("forward", _forward), ("training step", _step)):
                timed = measure.interleaved(
                    {kind: partial(run, call, numbers) for kind, numbers in _kinds().items()},
                    seconds=options.seconds,
                )
                ratios = {kind: timed.ratio(kind, "ordinary") for kind in _kinds() if kind != "ordinary"}
                slow += sum(ratio > _MOST for ratio in ratios.values())
                words = ", ".join(f"{kind} {ratio:.2f}×" for kind, ratio in ratios.items())
                print(f"{name:14} {what:14} {timed['ordinary'].median * 1e3:7.3f} ms; {words}", flush=True)
    print(f"{slow} calls became more than {_MOST:.0f} times as slow")
    if options.write:
        counted = {"calls timed": len(OPERATORS) * 2 * (len(_kinds()) - 1), "threads": options.threads}
        record.keep("commands", {"make denormals": {"counted": counted, "failed": slow}})
    return 1 if slow else 0


def _kinds() -> dict[str, Tensors]:
    torch.manual_seed(0)
    ordinary = {
        "x": torch.randn(1, 64, 56, 56).to(memory_format=torch.channels_last),
        "depthwise": torch.randn(64, 1, 3, 3),
        "pointwise": torch.randn(64, 64, 1, 1),
        "standard": torch.randn(64, 64, 3, 3),
        "gradient": torch.randn(1, 64, 56, 56).to(memory_format=torch.channels_last),
    }
    denormal = {name: torch.full_like(each, _DENORMAL) for name, each in ordinary.items()}
    weights = ("depthwise", "pointwise", "standard")
    return {
        "ordinary": ordinary,
        "image": ordinary | {"x": denormal["x"]},
        "weights": ordinary | {name: denormal[name] for name in weights},
        "gradient": ordinary | {"gradient": denormal["gradient"]},
        "all": denormal,
    }


def _forward(call: Callable[[Tensors], torch.Tensor], numbers: Tensors) -> None:
    call(numbers)


def _step(call: Callable[[Tensors], torch.Tensor], numbers: Tensors) -> None:
    leaves = {name: each.detach().requires_grad_() for name, each in numbers.items()}
    call(leaves).backward(numbers["gradient"])


OPERATORS: dict[str, Callable[[Tensors], torch.Tensor]] = {
    "conv2d": lambda t: ops.conv2d(t["x"], t["standard"], padding=1),
    "depthwise": lambda t: ops.depthwise_conv2d(t["x"], t["depthwise"], padding=1),
    "pointwise": lambda t: ops.pointwise_conv2d(t["x"], t["pointwise"]),
    "with SiLU": lambda t: ops.pointwise_conv2d(t["x"], t["pointwise"], activation="silu"),
    "separable": lambda t: ops.separable_conv2d(t["x"], t["depthwise"], t["pointwise"], padding=1),
}


if __name__ == "__main__":
    sys.exit(main())
