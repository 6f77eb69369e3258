"""The whole examination of one network, in its order."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ninefold import census, measure, surroundings
from ninefold.inference import InferenceModel, for_inference
from ninefold.reporting.data import Contender
from ninefold.reporting.facts import CONVOLUTIONS, Report, Sight

from . import clock, layers, swap

NCHW, NHWC, NINEFOLD = "PyTorch, NCHW", "PyTorch, channels-last", "Ninefold"

# Quiet, MobileNetV2's operators add up to 12.2 of 12.7 ms.
_BUSY = 1.5

_Runs = dict[str, Callable[[], Any]]


class Listener(Protocol):
    """Told what the examination does."""

    def step(self, text: str) -> None:
        """The next thing begins."""

    def done(self, share: float) -> None:
        """How far it is, from 0 to 1."""


class _Silence:
    def step(self, text: str) -> None:
        pass

    def done(self, share: float) -> None:
        pass


def examine(
    model: nn.Module,
    inputs: tuple[Any, ...],
    *,
    name: str,
    threads: int | None,
    seconds: float,
    convert: str | None,
    command: str,
    trained: bool = True,
    see: Callable[[Any, Any], Sight | None] | None = None,
    listener: Listener | None = None,
) -> Report:
    """Count and time `model` on positional `inputs`; `convert` is the line that would convert it, if any.

    `see` makes of PyTorch's answer and Ninefold's what a person sees in them.

    Raises ValueError for a network without a convolution, that cannot be captured or whose operators change
    from run to run.
    """
    listener = listener or _Silence()
    with warnings.catch_warnings():
        # PyTorch warns of itself wherever an exported program is copied.
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        return _examine(model, inputs, name, threads, seconds, convert, command, trained, see, listener)


def _examine(
    model: nn.Module,
    inputs: tuple[Any, ...],
    name: str,
    threads: int | None,
    seconds: float,
    convert: str | None,
    command: str,
    trained: bool,
    see: Callable[[Any, Any], Sight | None] | None,
    listener: Listener,
) -> Report:
    # Its own copy: the timing needs it in eval mode, and a report should not change what it reports on.
    model = copy.deepcopy(model).eval()
    listener.step("counting the network")
    counted = census.take(model, inputs)
    if not any(each.kind in CONVOLUTIONS for each in counted.operators):
        raise ValueError(f"`model` must have a convolution, got {name}, which calls none")
    measure.keep_memory()
    with measure.torch_threads(threads) as count:
        listener.step("fusing and packing it")
        fast, note = _fast(model, inputs, name)
        listener.step("measuring this machine's limits")
        machine = surroundings.describe(measure.limits(count))
        models = _layouts(model, inputs)
        listener.step("timing the whole network, in turns")
        with torch.inference_mode():
            comparison = measure.interleaved(
                _runs(models, fast), seconds=0.35 * seconds, rounds=(7, 1000), progress=listener.done
            )
        plain = comparison.fastest(*models)
        # In another layout PyTorch may call other operators.
        counted = counted if plain != NHWC else census.take(*models[plain])
        listener.step("timing its operators in PyTorch")
        taken = clock.operators(*models[plain], seconds=0.2 * seconds, progress=listener.done)
        listener.step("timing its layers in Ninefold")
        parts = () if note else clock.parts(fast, inputs, seconds=0.2 * seconds, progress=listener.done)
        listener.step("timing layers alone, the other way")
        swaps = swap.measured(
            swap.candidates(counted), machine, seconds=0.25 * seconds, progress=listener.done
        )
    notes = (note,) if note else _busy(comparison[plain].median, sum(taken))
    with torch.inference_mode():
        answers = model(*inputs), fast(*inputs)
    found = layers.describe(counted.operators, taken, fast, parts, machine)
    saved = tuple(each for each in swaps if each.built == "separable")
    return Report(
        network=name,
        trained=trained,
        inputs=tuple(tuple(x.shape) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)),
        parameters=sum(weight.numel() for weight in model.parameters()),
        rows=found.rows,
        blocks=found.blocks,
        shares=found.shares,
        steps=found.steps,
        contenders=_contenders(comparison),
        plain=plain,
        speedup=comparison.ratio(plain, NINEFOLD),
        rounds=len(comparison[NINEFOLD].samples),
        difference=_difference(*answers),
        saved=saved,
        could_save=tuple(each for each in swaps if each.built == "standard"),
        convert=convert,
        notes=notes,
        machine=machine,
        command=command,
        sight=see(*answers) if see else None,
    )


def _fast(model: nn.Module, inputs: tuple[Any, ...], name: str) -> tuple[InferenceModel, str]:
    """The network through Ninefold, and why it runs whole in PyTorch, if it does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="for_inference")
        fast = for_inference(model, inputs)
    plan = fast.plan_for(*inputs)
    if not isinstance(plan, str):
        return fast, ""
    if "could not be captured" in plan:
        raise ValueError(f"`model` must be a network that torch.export can capture, got {name}: {plan}")
    return fast, plan


def _layouts(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """The network and its inputs in each layout that PyTorch has for them."""
    found = {NCHW: (model, inputs)}
    if any(isinstance(x, Tensor) and x.dim() == 4 for x in inputs) and not any(
        weight.dim() == 5 for weight in model.parameters()
    ):
        last: Any = torch.channels_last
        turned = tuple(
            x.contiguous(memory_format=last) if isinstance(x, Tensor) and x.dim() == 4 else x for x in inputs
        )
        found[NHWC] = (copy.deepcopy(model).to(memory_format=last), turned)  # type: ignore[call-overload]
    return found


def _runs(models: dict[str, tuple[nn.Module, tuple[Any, ...]]], fast: InferenceModel) -> _Runs:
    runs: _Runs = {
        name: lambda model=model, inputs=inputs: model(*inputs)  # type: ignore[misc]
        for name, (model, inputs) in models.items()
    }
    inputs = models[NHWC if NHWC in models else NCHW][1]
    return {**runs, NINEFOLD: lambda: fast(*inputs)}


def _busy(whole: float, added: float) -> tuple[str, ...]:
    """Operators are too short to be interrupted often, whole networks are not: the difference tells."""
    if whole <= _BUSY * added:
        return ()
    return (
        f"The whole network took {1000 * whole:.3g} ms in PyTorch, its operators {1000 * added:.3g} ms one "
        "by one: the rest went to Python between them, or to something else that used the processor.",
    )


def _contenders(comparison: measure.Comparison) -> tuple[Contender, ...]:
    return tuple(Contender(each.name, (), each.median, each.spread) for each in comparison.timings)


def _difference(plain: Any, fast: Any) -> float:
    """The largest difference between the two answers, as a share of the range of PyTorch's."""
    pairs = zip(pytree.tree_leaves(plain), pytree.tree_leaves(fast), strict=True)
    shares = [
        _share(_wide(theirs), _wide(ours))
        for theirs, ours in pairs
        if isinstance(theirs, Tensor) and theirs.numel() > 0
    ]
    return next((share for share in shares if math.isnan(share)), max(shares, default=0.0))


def _share(theirs: Tensor, ours: Tensor) -> float:
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if bool(same.all()):
        return 0.0
    finite = theirs[theirs.isfinite()]
    if finite.numel() == 0:
        return math.inf
    # One number has no range, but a size.
    extent = float(finite.max() - finite.min()) or float(finite.abs().max())
    return float((ours - theirs)[~same].abs().max()) / max(extent, 1e-30)


def _wide(answer: Tensor) -> Tensor:
    """Its numbers as float64, complex ones as two, so that no dtype's range or rounding decides."""
    return (torch.view_as_real(answer.resolve_conj()) if answer.is_complex() else answer).double()
