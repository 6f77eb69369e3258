"""Distillation: the converted network learns from the original's outputs, and from its features on the way.

The loss is Hinton's soft labels (2015, arXiv:1503.02531), the divergence of the two class distributions at a
temperature T, times T², plus the mean over the converted layers of the relative square error of their outputs
(hints after FitNets, Romero et al. 2015, arXiv:1412.6550, and needing no adapters here, for the shapes
agree).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ninefold.conversion.survey import evaluating
from ninefold.shape import integer
from ninefold.training import for_training, restore


def distil(
    student: nn.Module,
    teacher: nn.Module,
    data: Iterable[Any],
    *,
    epochs: int,
    layers: Sequence[str] = (),
    learning_rate: float = 3e-3,
    temperature: float = 4.0,
    features: float = 0.1,
    fused: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> list[float]:
    """Train `student` in place to answer as `teacher` does, and return each epoch's mean loss.

    `data` yields batches of inputs, or tuples that begin with one; labels are not used. `layers` name the
    converted layers, whose outputs count `features` times as much as the answers. Adam, its rate falling from
    `learning_rate` to 0 along a cosine. `teacher` is run in eval mode and not changed; `student` ends in the
    modes it came in. `fused` runs it in Ninefold's training kernels (`for_training`) meanwhile.

    Where torch.distributed is initialised, each process gives its own share of the data, in batches as many
    as the others': gradients are averaged, and all end with the first one's student.

    Raises ValueError for numbers that cannot be, for data without a batch and for a loss that is not finite.
    """
    integer("epochs", epochs)
    for name, value in (("learning_rate", learning_rate), ("temperature", temperature)):
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive, got {value}")
    if not 0 <= features < math.inf:
        raise ValueError(f"`features` must be non-negative, got {features}")
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    losses = []
    batches = _count(data)
    got: dict[str, Tensor] = {}
    aim: dict[str, Tensor] = {}
    watching = _watched(student, layers, got), _watched(teacher, layers, aim)
    running = _in_kernels(student) if fused else nullcontext()
    _share(student)
    with _training(student), evaluating(teacher), running, watching[0], watching[1]:
        for epoch in range(epochs):
            total = seen = 0.0
            begin = getattr(getattr(data, "sampler", None), "set_epoch", None)
            if begin is not None:
                begin(epoch)
            for step, batch in enumerate(data):
                share = (epoch + (step / batches if batches else 0)) / epochs
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate * (1 + math.cos(math.pi * min(share, 1.0))) / 2
                x = batch[0] if isinstance(batch, tuple | list) else batch
                with torch.no_grad():
                    wanted = teacher(x)
                loss = soft_labels(student(x), wanted, temperature)
                if layers and features:
                    loss = loss + features * _features(got, aim, layers)
                if not bool(torch.isfinite(loss)):
                    raise ValueError(
                        f"the loss must be finite, got {float(loss.detach())} in epoch {epoch + 1}"
                    )
                optimiser.zero_grad()
                loss.backward()
                _average(trained)
                optimiser.step()
                total, seen = total + float(loss.detach()) * len(x), seen + len(x)
                if progress:
                    progress(f"distilling, epoch {epoch + 1} of {epochs}", share)
            if not seen:
                raise ValueError("`data` must yield at least one image, got none")
            losses.append(total / seen)
    _share(student)
    return losses


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _average(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients."""
    count = _processes()
    if count == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= count


def _share(model: nn.Module) -> None:
    """Give every process the first one's weights and statistics."""
    if _processes() > 1:
        for value in model.state_dict().values():
            dist.broadcast(value, src=0)


@contextmanager
def _in_kernels(model: nn.Module) -> Iterator[None]:
    try:
        for_training(model)
        yield
    finally:
        restore(model)


def soft_labels(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² times the divergence of the wanted class distribution from the one given, both at temperature T."""
    given = functional.log_softmax(logits / temperature, dim=-1)
    aim = functional.log_softmax(wanted / temperature, dim=-1)
    return functional.kl_div(given, aim, reduction="batchmean", log_target=True) * temperature**2


def _features(got: dict[str, Tensor], wanted: dict[str, Tensor], layers: Sequence[str]) -> Tensor:
    errors = [
        (got[name] - wanted[name]).square().mean() / wanted[name].var().clamp_min(1e-12) for name in layers
    ]
    return torch.stack(errors).mean()


def _count(data: Iterable[Any]) -> int:
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return 0


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Keep the outputs of `layers` in the last pass in `outputs`, by name."""

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
