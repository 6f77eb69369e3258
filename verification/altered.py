"""Saved plans whose fields somebody altered: a clear error or the right answer, never a crash.

A network of every kind of step is drawn, some of its fields are altered, it is pickled and read again, and
run in guarded memory. Where it runs, PyTorch's operators, step by step, must give the same. Each case follows
from a seed and an index alone.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import memory
import record
from ninefold.ops.packed import Conv2d, Inverted, Packed, Separable
from ninefold.ops.sequence import STEPS, Sequence, Step
from ninefold.shape import ACTIVATIONS

ALLOWED = (ValueError, TypeError)
_NEAR = 2e-4  # of the largest number: sums of a few hundred
_LARGEST = 1e6  # where altered steps drive numbers further, rounding says nothing

Random = np.random.Generator


def main() -> int:
    """Alter and run; 0 if everything held."""
    parser = argparse.ArgumentParser(prog="python verification/altered.py", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--write", action="store_true", help="what was counted into results.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = range(options.cases) if options.case is None else [options.case]
    refused = right = 0
    for index in cases:
        # Said first: a crash leaves nothing to say it.
        print(f"\r--seed {options.seed} --case {index}", end="", file=sys.stderr, flush=True)
        verdict = check(options.seed, index)
        if verdict not in ("refused", "right"):
            print(f"\nFAILED --seed {options.seed} --case {index}: {verdict}")
            return 1
        refused, right = refused + (verdict == "refused"), right + (verdict == "right")
    print(f"\r{refused + right:,} altered plans: {refused:,} refused, {right:,} right, 0 wrong")
    if options.write:
        counted = {"altered plans": refused + right, "refused": refused, "right": right}
        record.keep("commands", {"python verification/altered.py": {"counted": counted, "failed": 0}})
    return 0


def check(seed: int, index: int) -> str:
    """Alter one plan; "refused", "right", or what is wrong."""
    random = np.random.default_rng([seed, index])
    sequence, x = network(random), numbers(random, (int(random.integers(1, 4)), 8, 9, 7))
    for _ in range(int(random.integers(1, 4))):
        alter(random, sequence)
    try:
        saved: Sequence = pickle.loads(pickle.dumps(sequence))
        with memory.guarded(), torch.no_grad():
            got = saved.run((x,))
    except ALLOWED as error:
        words = str(error)
        return "refused" if words and "\n" not in words else f"words of several lines: {words!r}"
    except MemoryError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        with torch.no_grad():
            wanted = saved.step_by_step(x)
    except Exception as error:
        if "allocate memory" in str(error):
            return "refused"  # by PyTorch, which has no way to compute it without that much
        return f"it ran, and PyTorch says {type(error).__name__}: {error}"
    for ours, other in zip(got, wanted, strict=True):
        if ours.shape != other.shape:
            return f"shape {tuple(ours.shape)}, not {tuple(other.shape)}"
        largest = float(other.nan_to_num().abs().max())
        if largest > _LARGEST:
            continue
        if not torch.allclose(ours, other, rtol=0, atol=_NEAR * max(1.0, largest), equal_nan=True):
            return f"numbers that are {float((ours - other).abs().max())} off"
    return "right"


def numbers(random: Random, shape: tuple[int, ...]) -> torch.Tensor:
    """Random numbers whose last is the last before the guard page; images are channels-last."""
    drawn = torch.from_numpy(random.standard_normal(shape).astype(np.float32))
    return memory.tensor(shape, channels_last=len(shape) == 4 and shape[2:] != (1, 1)).copy_(drawn)


def network(random: Random) -> Sequence:
    """A step of every kind: 0 is the image (8 channels), then a step a line."""

    def conv(outputs: int, inputs: int, size: int = 1, **options: Any) -> Conv2d:
        weight = numbers(random, (outputs, inputs // options.get("groups", 1), size, size))
        return Conv2d(weight, numbers(random, (outputs,)), padding=(size // 2,) * 4, **options)

    depthwise, pointwise = numbers(random, (8, 1, 3, 3)), numbers(random, (12, 8, 1, 1))
    pair = Separable(depthwise, pointwise, None, numbers(random, (12,)), padding=(1,) * 4, activation="relu")
    inverted = Inverted(conv(16, 12, activation="relu6"), conv(16, 16, 3, groups=16), conv(12, 16))
    gain, offset = numbers(random, (12,)), numbers(random, (12,))
    return Sequence(
        1,
        (
            Step("layer", (0,), conv(8, 8, 3, activation="silu")),  # 1
            Step("layer", (1,), conv(8, 8, 5, groups=8)),  # 2
            Step("layer", (2, 1), conv(8, 8)),  # 3
            Step("layer", (3,), pair),  # 4
            Step("layer", (4, 4), inverted),  # 5
            Step("mean", (5,)),  # 6
            Step("sigmoid", (6,)),  # 7
            Step("scale", (5, 7)),  # 8
            Step("layer", (8,), conv(12, 12)),  # 9
            Step("add", (9, 4)),  # 10
            Step("layer_norm", (10,), None, (gain, offset, 1e-5)),  # 11
            Step("channels", (11,), None, (4, 8)),  # 12
            Step("concatenation", (12, 10)),  # 13
            Step("shuffle", (13,), None, (4,)),  # 14
            Step("largest", (14,), None, ((3, 3), (2, 2), (1, 1), False, (1, 1))),  # 15
            Step("average", (15,), None, ((2, 2), (1, 1), (0, 0), False, True, None)),  # 16
            Step("hardswish", (16,)),  # 17
        ),
        ((10, 4), (17, 4), (6, 2)),
    )


def alter(random: Random, sequence: Sequence) -> None:
    """Change one field of it."""
    place = int(random.integers(max(1, len(sequence.steps))))
    if not sequence.steps:
        return
    choose = random.random()
    if choose < 0.5:
        step = sequence.steps[place]
        if step.layer is not None and random.random() < 0.7:
            _alter_layer(random, step.layer)
            return
        changed = _STEP[random.integers(len(_STEP))](random, step)
        sequence.steps = (*sequence.steps[:place], changed, *sequence.steps[place + 1 :])
    elif choose < 0.8:
        layers = [step.layer for step in sequence.steps if step.layer is not None]
        _alter_layer(random, layers[random.integers(len(layers))])
    elif choose < 0.85:
        a, b = (int(random.integers(len(sequence.steps))) for _ in range(2))
        steps = list(sequence.steps)
        steps[a], steps[b] = steps[b], steps[a]
        sequence.steps = tuple(steps)
    elif choose < 0.9:
        sequence.inputs = int(random.integers(-1, 4))
    elif choose < 0.97:
        value, dimensions = int(random.integers(-1, 20)), int(random.integers(1, 6))
        sequence.outputs = (*sequence.outputs[1:], (value, dimensions))
        if random.random() < 0.7:
            sequence.values = sorted({value for value, _ in sequence.outputs})
    else:
        sequence.steps = sequence.steps[:place]


def _alter_layer(random: Random, layer: Packed) -> None:
    if isinstance(layer, Inverted):
        if random.random() < 0.2:
            layer.padding = tuple(int(random.integers(-1, 4)) for _ in range(4))  # type: ignore[assignment]
            return
        inner = (layer.expansion, layer.depthwise, layer.projection)[random.integers(3)]
        assert inner is not None
        _alter_layer(random, inner)
        return
    names = [name for name in vars(layer) if not name.startswith("_") and name not in ("training", "label")]
    name = str(random.choice(names))
    setattr(layer, name, _other(random, getattr(layer, name)))


def _other(random: Random, value: Any) -> Any:
    """Something else in the place of a field, of the same kind most of the time."""
    odd: tuple[Any, ...] = (None, 0, -1, "x", (), (1,), 2**31, 2**40, 1.5, torch.zeros(3))
    if random.random() < 0.1:
        return odd[random.integers(len(odd))]
    if isinstance(value, torch.Tensor):
        changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
            lambda t: t.double(),
            lambda t: t.half(),
            lambda t: t.to(torch.complex64),
            lambda t: t.to(torch.int8),
            lambda t: t[:-1],
            lambda t: torch.cat([t, t]),
            lambda t: t.flatten(),
            lambda t: t[None],
            lambda t: t.transpose(0, 1) if t.dim() > 1 else t[::2],
            lambda t: t[..., :1],
            lambda t: t[:0],
            lambda t: nn.functional.pad(t, (1, 1)),
            lambda t: torch.full_like(t, float("nan")),
        )
        return changes[random.integers(len(changes))](value)
    if isinstance(value, str) or value is None:
        return str(random.choice([*map(str, ACTIVATIONS), "nothing"]))
    if isinstance(value, tuple):
        sizes = (-1, 0, 1, 1, 2, 3, 5, 2**16, 2**31 - 1)
        return tuple(int(random.choice(sizes)) for _ in value[: len(value) - (random.random() < 0.1)])
    return int(random.choice((-1, 0, 1, 2, 3, 4, 8, 16, 2**31 - 1)))


def _what(random: Random, step: Step) -> Step:
    return replace(step, what=str(random.choice([*STEPS, *map(str, ACTIVATIONS), "layer", "unheard"])))


def _operands(random: Random, step: Step) -> Step:
    operands = [int(v) for v in random.integers(-1, 19, int(random.integers(0, 4)))]
    return replace(step, operands=tuple(operands))


def _earlier(random: Random, step: Step) -> Step:
    """Operands that may be there: more of these plans run."""
    return replace(step, operands=tuple(int(random.integers(0, v + 1)) for v in step.operands))


def _options(random: Random, step: Step) -> Step:
    options = [_other(random, option) if random.random() < 0.5 else option for option in step.options]
    return replace(step, options=tuple(options[: len(options) - (random.random() < 0.1)]))


_STEP = (_what, _operands, _earlier, _options)


if __name__ == "__main__":
    sys.exit(main())
