"""The calibration data, checked, and two networks run on it side by side as far as one layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_BATCH = 64


class Batches:
    """Inputs of a network, batch by batch, as often as wanted; labels that come along are left out."""

    def __init__(self, calibration: Any, examples: tuple[Any, ...]) -> None:
        """Take a tensor of inputs, or what yields batches: inputs, or tuples that begin with them.

        Reads it once through. Raises TypeError for what cannot be read twice, ValueError for no batches,
        inputs of another size or type than the examples', and numbers that are not finite.
        """
        if isinstance(calibration, Tensor):
            calibration = calibration.split(_BATCH) if calibration.dim() else [calibration]
        if not isinstance(calibration, Iterable) or isinstance(calibration, str | bytes | dict):
            kind = type(calibration).__name__
            raise TypeError(f"`calibration` must be a tensor or yield batches of inputs, got {kind}")
        if iter(calibration) is calibration:
            kind = type(calibration).__name__
            rule = "`calibration` must be readable more than once, as a DataLoader or a list is"
            raise TypeError(f"{rule}, got {kind}")
        self._source = calibration
        self._examples = examples
        self.images = 0
        for position, batch in enumerate(calibration):
            self.images += self._check(self._inputs(batch), position)
        if self.images == 0:
            raise ValueError("`calibration` must yield at least one image, got none")

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self._source:
            inputs = self._inputs(batch)
            yield tuple(
                got.to(like.device) if isinstance(like, Tensor) else got
                for got, like in zip(inputs, self._examples, strict=True)
            )

    def _inputs(self, batch: Any) -> tuple[Any, ...]:
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        return parts[: len(self._examples)]

    def _check(self, inputs: tuple[Any, ...], position: int) -> int:
        for index, like in enumerate(self._examples):
            got = inputs[index] if index < len(inputs) else None
            if not isinstance(like, Tensor):
                continue
            wanted = f"inputs like the example's, {_kind(like)}"
            if not isinstance(got, Tensor):
                kind = type(got).__name__
                raise TypeError(f"`calibration` must yield {wanted}, got {kind} in batch {position}")
            if got.dim() != like.dim() or got.shape[1:] != like.shape[1:] or got.dtype != like.dtype:
                raise ValueError(f"`calibration` must yield {wanted}, got {_kind(got)} in batch {position}")
            if got.is_floating_point() and not bool(torch.isfinite(got).all()):
                bad = "NaN" if bool(torch.isnan(got).any()) else "infinity"
                raise ValueError(f"`calibration` must be finite, got {bad} in batch {position}")
        return len(inputs[0]) if isinstance(inputs[0], Tensor) else 1


def _kind(x: Tensor) -> str:
    sizes = ", ".join(map(str, x.shape[1:]))
    return f"(batch{', ' if sizes else ''}{sizes}) of {str(x.dtype).removeprefix('torch.')}"


class _ReachedError(Exception):
    """The layer has been called for the last time: the rest of the pass is not needed."""


class Probe:
    """Runs a network as far as one layer and returns what goes into it, or what comes out, call by call."""

    def __init__(self, model: nn.Module, name: str, calls: int, *, inputs: bool) -> None:
        """Look at `model`'s layer `name`, which a pass calls `calls` times."""
        self._model, self._layer = model, model.get_submodule(name)
        self._calls, self._want_inputs = calls, inputs

    def __call__(self, *inputs: Any) -> list[Tensor]:
        """Run; the tensors are detached, one for each call."""
        found: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            keep(args[0])

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            keep(output)

        def keep(seen: Tensor) -> None:
            last = len(found) + 1 == self._calls
            # What runs until the last call may work in place on the same memory.
            found.append(seen.detach() if last else seen.detach().clone())
            if last:
                raise _ReachedError

        layer = self._layer
        handle = (
            layer.register_forward_pre_hook(before)
            if self._want_inputs
            else layer.register_forward_hook(after)
        )
        try:
            self._model(*inputs)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        return found
