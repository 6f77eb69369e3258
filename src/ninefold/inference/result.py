"""The network that `for_inference` returns."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.utils import _pytree as pytree

from ninefold.inference import plan, replay, summary
from ninefold.inference.capture import Captured, capture, of_one_batch
from ninefold.ops.backend import unresolved

# Shapes that change at every call would fill the memory with short cuts.
_MOST_SHORT_CUTS = 64

_AGAIN = "change the original model, then call `ninefold.for_inference` on it again"


class InferenceModel(nn.Module):
    """A frozen copy of a model: the same results, separable blocks in fused kernels, no gradients.

    Takes the positional inputs that the model takes. Another image size, dtype or non-tensor input is
    captured at its first use and kept. Safe to call from several threads. Copies share what they hold; a
    pickle leaves the captured graphs behind, and they are made again at the first call. `layers` and `shares`
    say what runs where, `summary()` says it as text.
    """

    layers: tuple[summary.Layer, ...]

    def __init__(self, model: nn.Module, examples: tuple[Any, ...], *, tune: bool) -> None:
        super().__init__()
        self.training = False
        # In a tuple, so that it is no child of this module: moving or loading it would not reach the kernels.
        self._original = (model,)
        self._tune, self._any_batch = tune, True
        self._plans: dict[Any, plan.Plan | str] = {}
        self._short_cuts: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._lock = threading.RLock()
        leaves, spec = pytree.tree_flatten(examples)
        first = self._planned(leaves, spec)
        self.layers = () if isinstance(first, str) else first.layers
        if isinstance(first, str):
            self._notes: tuple[str, ...] = (first,)
        else:
            self._notes = (*[first.note] * bool(first.note), f"captured in {first.captured.seconds:.1f} s")

    @property
    def shares(self) -> dict[str, Fraction]:
        """Share of the multiplications that run "fused", in a "kernel" of their own, and in "pytorch"."""
        return summary.shares(self.layers)

    def summary(self) -> str:
        """Each layer, what became of it and why, and the shares, as text; for the examples' sizes."""
        return summary.text(self.layers, self._notes)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network, and the hooks if there are any.

        A network sweeps the caches: all that Python and PyTorch do around it comes from memory, and takes up
        to ten times as long as in a loop of its own. With `nn.Module.__call__`, `torch.no_grad()` (50 µs) and
        `x.device` (28) a call of MobileNetV1 spent 0.2 ms so, without them half.
        """
        x = inputs[0] if len(inputs) == 1 and not named else None
        if type(x) is Tensor:
            call = self._short_cuts.get(x.shape)
            if (
                call is not None
                and x.dtype is torch.float32
                and x.is_cpu
                and x.layout is torch.strided
                and not unresolved(x)
                and not _hooked(self)
            ):
                return call(x)
        return super().__call__(*inputs, **named)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the network; the result carries no gradients."""
        x = inputs[0] if len(inputs) == 1 else None
        if named:
            names = ", ".join(f"`{name}`" for name in named)
            raise TypeError(f"inputs must be positional, as the examples were, got {names}")
        chosen = self.plan_for(*inputs)
        with torch.no_grad():
            if isinstance(chosen, str):
                return self._original[0](*inputs)
            leaves = pytree.tree_leaves(inputs)
            if torch.is_autocast_enabled("cpu"):
                with torch.autocast("cpu", enabled=False):
                    out = chosen.run(*leaves)
            else:
                out = chosen.run(*leaves)
        if leaves[0] is x:
            self._remember(chosen, x)
        return pytree.tree_unflatten(list(out), chosen.captured.out_spec)

    def plan_for(self, *inputs: Any) -> plan.Plan | str:
        """What runs for these inputs, captured now if they are the first of their kind; or why not."""
        leaves, spec = pytree.tree_flatten(inputs)
        any_batch, exact = _keys(leaves, spec)
        return self._plans.get(any_batch) or self._plans.get(exact) or self._planned(leaves, spec)

    def _remember(self, chosen: plan.Plan, x: Tensor) -> None:
        """Find the way straight into the extension for this shape, if there is one."""
        whole = chosen.whole if chosen.captured.out_spec.is_leaf() else None
        if whole is not None and len(self._short_cuts) < _MOST_SHORT_CUTS and whole.in_extension(x):
            call = whole.for_sizes(x.shape)
            if call is not None:
                self._short_cuts[x.shape] = call

    def _planned(self, leaves: list[Any], spec: pytree.TreeSpec) -> plan.Plan | str:
        any_batch, exact = _keys(leaves, spec)
        with self._lock, torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            known = self._plans.get(any_batch) or self._plans.get(exact)
            if known:
                return known
            leaves = [
                leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf for leaf in leaves
            ]
            made = self._make(leaves, spec)
            free = isinstance(made, plan.Plan) and made.captured.batch is not None
            self._plans[any_batch if free else exact] = made
            return made

    def _make(self, leaves: list[Any], spec: pytree.TreeSpec) -> plan.Plan | str:
        model = self._original[0]

        def inputs() -> tuple[Any, ...]:
            fresh: tuple[Any, ...] = pytree.tree_unflatten(replay.copied(leaves), spec)
            return fresh

        wanted = pytree.tree_leaves(model(*inputs()))
        failure = ""
        for dynamic in (True, False) if self._any_batch else (False,):
            try:
                captured: Captured = capture(model, inputs(), dynamic=dynamic)
                made = plan.make(captured, leaves, wanted, measured=self._tune)
            except plan.DisagreementError as error:
                failure = str(error)
            except Exception as error:
                if plan.out_of_memory(error):
                    raise
                failure = f"it could not be captured: {plan.first_line(error)}"
            else:
                if made.note:
                    warnings.warn(f"for_inference: {made.note}", RuntimeWarning, stacklevel=2)
                return made
            # A network that fixed its batch once will do so at every size.
            self._any_batch = self._any_batch and not dynamic
        note = f"the whole network runs in PyTorch: {failure}"
        warnings.warn(f"for_inference: {note}", RuntimeWarning, stacklevel=2)
        return note

    def train(self, mode: bool = True) -> InferenceModel:
        """Refuse to train; `eval()` and `train(False)` change nothing."""
        if mode:
            raise RuntimeError(f"a model from `for_inference` is frozen and cannot train: {_AGAIN}")
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the weights are folded and packed."""
        raise RuntimeError(f"a model from `for_inference` is frozen and loads no weights: {_AGAIN}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InferenceModel:
        first = next(self._original[0].parameters(), torch.empty(0)).detach()
        probe = first.new_empty((1, 1, 1, 1))
        moved = fn(probe)
        if moved.device != probe.device or moved.dtype != probe.dtype:
            wanted = f"{str(moved.dtype).removeprefix('torch.')} on {moved.device}"
            raise RuntimeError(f"a model from `for_inference` is frozen and cannot become {wanted}: {_AGAIN}")
        return self

    def extra_repr(self) -> str:
        """Where the multiplications run."""
        return ", ".join(f"{float(share):.1%} {summary.HOW[how]}" for how, share in self.shares.items())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_short_cuts": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans, self._lock = {}, threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> InferenceModel:
        twin = type(self).__new__(type(self))
        nn.Module.__setstate__(twin, dict(self.__dict__))
        twin._plans, twin._short_cuts = dict(self._plans), dict(self._short_cuts)
        memo[id(self)] = twin
        return twin


def _hooked(model: nn.Module) -> bool:
    """Whether somebody wants to see or change what goes into the model or comes out of it."""
    return bool(
        model._forward_hooks
        or model._forward_pre_hooks
        or model._backward_hooks
        or model._backward_pre_hooks
        or modules._has_any_global_hook()
    )


def _keys(leaves: list[Any], spec: pytree.TreeSpec) -> tuple[Any, Any]:
    """Keys of the plans that could take these inputs: one for any batch, one for exactly these sizes."""
    batch = of_one_batch(leaves)
    free: list[Any] = []
    exact: list[Any] = []
    for leaf, on in zip(leaves, batch, strict=True):
        if isinstance(leaf, Tensor):
            kind = leaf.dtype, leaf.device
            exact.append((*kind, tuple(leaf.shape)))
            free.append((*kind, None, tuple(leaf.shape[1:])) if on else exact[-1])
        else:
            exact.append((type(leaf), leaf))
            free.append(exact[-1])
    return (spec, tuple(free)), (spec, tuple(exact))
