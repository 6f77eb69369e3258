"""Steps replayed as CUDA graphs: what a GPU is told a thousand times a step is recorded once.

A training step of MobileNetV2 at batch 256 is 1,258 launches, 24 ms of an H200's time and 97 ms of the
processor's that asks for them. Recorded, its forward pass is one launch and its backward pass another.

The first calls with inputs of some shapes run as ever, while the planner measures; the next is recorded. An
input that lay at one address in every call (a weight, a running statistic) is read and written there, after
a look whether it still does; any other is copied to where the graph reads it. What comes out is a copy too,
so nothing that a caller holds is written over. What the function writes (a running statistic) is found by
looking, in the last of those first calls: such an input is never one of the copied.

A recording has one set of kept images: a second forward pass before the first one's backward pass runs
without it. What cannot be recorded runs as ever, and the logger "ninefold" says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_WARM = 2  # calls of the same shapes before one is recorded: planner and libraries have chosen by then
_MOST = 4  # recordings of one graph: each keeps its images' memory

_log = logging.getLogger("ninefold")

Run = Callable[..., Any]


class Replayed:
    """Runs a function of tensors and numbers under autograd, from recordings where it can."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: dict[Any, int] = {}
        self._steady: dict[int, int] | None = None  # place → address of what lay there in every call
        self._written: set[int] = set()  # places of the inputs that the function writes
        self._recordings: dict[Any, Recording] = {}
        self._refused = ""

    def __call__(self, *inputs: Any) -> Any:
        """The function's results, as a tuple where they are several."""
        steady = self._follow(inputs)
        if self._refused or not torch.is_grad_enabled() or _capturing():
            return self._run(*inputs)
        key = tuple(map(_described, inputs))
        recording = self._recordings.get(key)
        if recording is not None and not recording.places <= steady.keys():
            del self._recordings[key]
            recording = None
        if not self._written <= steady.keys():
            # What is written has moved: a copy of it would be written in its place. All is looked at anew.
            self._steady, self._seen, self._recordings = None, {}, {}
            return self._run(*inputs)
        if recording is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] == _WARM:
                return self._watched(inputs)
            if self._seen[key] < _WARM or len(self._recordings) >= _MOST:
                return self._run(*inputs)
            recording = self._record(inputs, steady)
            if recording is None:
                return self._run(*inputs)
            self._recordings[key] = recording
        return self._run(*inputs) if recording.busy else recording(inputs)

    def _record(self, inputs: Sequence[Any], steady: dict[int, int]) -> Recording | None:
        try:
            return Recording(self._run, inputs, frozenset(steady))
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            self._refused = f"{type(error).__name__}: {first}"
            _log.warning("steps are not replayed: %s", self._refused)
            return None

    def _watched(self, inputs: Sequence[Any]) -> Any:
        before = [x.clone() if isinstance(x, Tensor) and not x.requires_grad else None for x in inputs]
        made = self._run(*inputs)
        for place, old in enumerate(before):
            if old is not None and not bool(((old == inputs[place]) | (old != old)).all()):  # NaN stays NaN
                self._written.add(place)
        return made

    def _follow(self, inputs: Sequence[Any]) -> dict[int, int]:
        now = {place: x.data_ptr() for place, x in enumerate(inputs) if isinstance(x, Tensor)}
        before = now if self._steady is None else self._steady
        self._steady = {place: at for place, at in before.items() if now[place] == at}
        return self._steady


class Recording:
    """The CUDA graphs of one forward and one backward pass, and the tensors that they read and write."""

    def __init__(self, run: Run, inputs: Sequence[Any], places: frozenset[int]) -> None:
        self.places = places  # of the inputs that are read where they lie
        self._inputs = [self._own(place, x) for place, x in enumerate(inputs)]
        self._ticket: ReferenceType[_Ticket] | None = None
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        with _recorded(self._forward, pool):
            made = run(*self._inputs)
        self._single = isinstance(made, Tensor)
        outputs = [made] if self._single else list(made)
        if not all(isinstance(output, Tensor) for output in outputs):
            raise ValueError("a graph gives something that is no tensor")
        self.differentiable = [output.requires_grad for output in outputs]
        roots = [output for output in outputs if output.requires_grad]
        if not roots:
            raise ValueError("a graph gives nothing that has a gradient")
        self.arriving = [torch.empty_like(output) for output in roots]
        self._wanted = [
            place for place, x in enumerate(self._inputs) if isinstance(x, Tensor) and x.requires_grad
        ]
        leaves = [self._inputs[place] for place in self._wanted]
        with _recorded(self._backward, pool):
            self._gradients = torch.autograd.grad(roots, leaves, self.arriving, allow_unused=True)
        self._outputs = [output.detach() for output in outputs]

    @property
    def busy(self) -> bool:
        """Whether a forward pass still waits for its backward pass."""
        ticket = self._ticket() if self._ticket is not None else None
        return ticket is not None and not ticket.used

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Replay the forward pass; the results' gradients replay the backward pass."""
        made = _Step.apply(self, *inputs)
        return made[0] if self._single else made

    def forward(self, inputs: Sequence[Any], ticket: _Ticket) -> tuple[Tensor, ...]:
        """Copy what moves to its place, replay, copy what came out."""
        self._ticket = ref(ticket)
        for place, mine in enumerate(self._inputs):
            if isinstance(mine, Tensor) and place not in self.places:
                mine.detach().copy_(inputs[place])
        self._forward.replay()
        return tuple(output.clone() for output in self._outputs)

    def backward(self, gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of all inputs, None for those that have none."""
        arriving = [g for g, takes in zip(gradients, self.differentiable, strict=True) if takes]
        torch._foreach_copy_(self.arriving, arriving)
        self._backward.replay()
        made = [gradient for gradient in self._gradients if gradient is not None]
        # Copies, of all in few launches: a parameter may keep what it is given.
        copies = iter(torch._foreach_mul(made, 1.0))
        given: list[Tensor | None] = [None] * len(self._inputs)
        for place, gradient in zip(self._wanted, self._gradients, strict=True):
            given[place] = None if gradient is None else next(copies)
        return given

    def _own(self, place: int, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if place not in self.places:
            return x.detach().clone().requires_grad_(x.requires_grad)
        # A leaf of its own: the parameter's would remember the stream of the recording.
        return x.detach().requires_grad_() if x.requires_grad else x


class _Ticket:
    """Lives as long as a forward pass may still be differentiated."""

    used = False


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: Recording, *inputs: Any) -> tuple[Tensor, ...]:
        ctx.recording, ctx.ticket = recording, _Ticket()
        made = recording.forward(inputs, ctx.ticket)
        ctx.mark_non_differentiable(
            *(output for output, takes in zip(made, recording.differentiable, strict=True) if not takes)
        )
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        if ctx.ticket.used:
            raise RuntimeError(
                "a replayed step was differentiated a second time: what it kept has been written over; "
                "train with graphs=False to differentiate a step more than once"
            )
        ctx.ticket.used = True
        return None, *ctx.recording.backward(gradients)


def _described(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@contextmanager
def _recorded(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    # Other threads (of a loader, say) may go on with what they do meanwhile. A weight that autocast has cast
    # and kept would be read by the graph after it is gone.
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            yield
    finally:
        torch.set_autocast_cache_enabled(kept)
