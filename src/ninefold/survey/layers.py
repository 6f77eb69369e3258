"""From operators, their times and what `for_inference` made of them, to the rows and blocks of a report."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ninefold.inference import InferenceModel
from ninefold.inference.profile import Part
from ninefold.operators import Operator, kind_of
from ninefold.reporting.data import FATES, Machine
from ninefold.reporting.facts import Block, Row, Share, limit
from ninefold.shape import numel

_FATES = dict(zip(("fused", "kernel", "pytorch"), FATES, strict=True))
# What a step of a plan is called there, beside PyTorch's names for operators.
_STEPS = {"scale": "sums and products", "concatenation": "copies", "channels": "copies", "_item": "other"}
_FUSED = {2: "depthwise + pointwise, fused", 3: "inverted residual, fused"}


@dataclass(frozen=True)
class Found:
    """The tables of a report."""

    rows: tuple[Row, ...]
    blocks: tuple[Block, ...]
    shares: tuple[Share, ...]
    steps: tuple[Share, ...]


def describe(
    operators: Sequence[Operator],
    seconds: Sequence[float],
    fast: InferenceModel,
    parts: Sequence[Part],
    machine: Machine,
) -> Found:
    """Put together what was counted and timed; `seconds` belong to `operators`, one by one.

    Raises ValueError where they are not as many: a network that calls other operators each time.
    """
    if len(operators) != len(seconds):
        counts = f"{len(operators)} and {len(seconds)}"
        raise ValueError(f"`model` must call the same operators at each run, got {counts} of them")
    multiplying = [(one, taken) for one, taken in zip(operators, seconds, strict=True) if one.multiplications]
    # By name, in the order they ran: a weight that is used twice stands twice in both lists.
    where: dict[str, deque[int]] = defaultdict(deque)
    for position, (one, _) in enumerate(multiplying):
        where[one.name].append(position)
    owners: dict[int, int] = {}
    members: list[list[int]] = []
    for index, layer in enumerate(fast.layers):
        members.append([where[name].popleft() for name in layer.name.split(" + ") if where[name]])
        owners.update(dict.fromkeys(members[-1], index))
    rows = tuple(
        _row(position, one, taken, owners.get(position), machine)
        for position, (one, taken) in enumerate(multiplying)
    )
    times: dict[str, deque[float]] = defaultdict(deque)
    for part in parts:
        times[part.label].append(part.seconds)
    blocks = []
    for layer, own in zip(fast.layers, members, strict=True):
        inside = [rows[position] for position in own]
        size = _bytes(inside)
        blocks.append(
            Block(
                names=tuple(layer.name.split(" + ")),
                how=_FATES[layer.how],
                why=layer.why,
                multiplications=layer.multiplications,
                bytes=size,
                limit=limit(machine, layer.multiplications, size) if size else None,
                seconds=times[layer.name].popleft() if times[layer.name] else None,
            )
        )
    named = {one.name: one.kind for one, _ in multiplying}
    return Found(
        rows,
        tuple(blocks),
        _together(
            (one.kind, one.multiplications, taken) for one, taken in zip(operators, seconds, strict=True)
        ),
        _together((_step(part, named), 0, part.seconds) for part in parts),
    )


def _row(position: int, one: Operator, seconds: float, block: int | None, machine: Machine) -> Row:
    return Row(
        position=position,
        name=one.name or f"{one.operator} {position}",
        kind=one.kind,
        operator=one.operator,
        input_shape=one.input_shape,
        output_shape=one.output_shape,
        weight_shape=one.weight_shape,
        kernel_size=one.kernel_size,
        stride=one.stride,
        padding=one.padding,
        dilation=one.dilation,
        groups=one.groups,
        multiplications=one.multiplications,
        parameters=one.parameters,
        bytes=one.bytes,
        limit=limit(machine, one.multiplications, one.bytes),
        seconds=seconds,
        block=block,
    )


def _bytes(rows: Sequence[Row]) -> int:
    """What a block moves: all that its layers move, without what passes between them (float32)."""
    between = sum(4 * (numel(one.output_shape) + numel(other.input_shape)) for one, other in pairwise(rows))
    return sum(row.bytes for row in rows) - between


def _step(part: Part, named: dict[str, str]) -> str:
    names = part.label.split(" + ")
    if len(names) in _FUSED:
        return _FUSED[len(names)]
    if part.label in named:
        return named[part.label]
    return _STEPS.get(part.what) or kind_of(part.what)


def _together(calls: Iterable[tuple[str, int, float]]) -> tuple[Share, ...]:
    """One share for each kind; what takes longest comes first."""
    sums: dict[str, tuple[int, int, float]] = defaultdict(lambda: (0, 0, 0.0))
    for kind, multiplications, seconds in calls:
        before = sums[kind]
        sums[kind] = before[0] + 1, before[1] + multiplications, before[2] + seconds
    shares = [Share(kind, *each) for kind, each in sums.items()]
    return tuple(sorted(shares, key=lambda share: -share.seconds))
