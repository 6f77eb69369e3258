"""Distillation: the converted network learns from the original's outputs, and from its features on the way.

The loss is Hinton's soft labels (2015, arXiv:1503.02531), the divergence of the two class distributions at a
temperature T, times T², plus the mean over the converted layers of the relative square error of their outputs
(hints after FitNets, Romero et al. 2015, arXiv:1412.6550, and needing no adapters here, for the shapes
agree), plus, where wanted, the cross-entropy with the labels. The steps are `ninefold.trainer`'s.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ninefold import trainer
from ninefold.census import in_eval
from ninefold.shape import integer


def distil(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    epochs: int,
    layers: Sequence[str] = (),
    batch: int = 64,
    learning_rate: float = 3e-3,
    temperature: float = 4.0,
    features: float = 0.1,
    labels: float = 0.0,
    fused: bool = True,
    seed: int = 0,
    workers: int = 0,
    output: Path | None = None,
    resume: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Train `student` in place to answer as `teacher` does, and return the last epoch's metrics.

    `data` is a tensor of images, or a dataset of images or of tuples that begin with an image and its label.
    `layers` name the converted layers, whose outputs count `features` times as much as the answers, and
    labels count `labels` times: a teacher that has not learnt all it could is then no limit.
    Adam, its rate falling from `learning_rate` to 0 along a cosine, in batches of at most `batch`, in
    Ninefold's training kernels if `fused`. `teacher` is run in eval mode and not changed; `student` ends in
    the modes it came in.

    `output` is a folder for what `trainer.train` keeps, a checkpoint among it; with `resume` it goes on
    there. Without, nothing is kept. Under torchrun the processes share each batch, and `output` is the same
    for all of them; the first one's student is the one to keep.

    Raises ValueError for numbers that cannot be, for data without an image, and for data or a loss that is
    not finite; FileExistsError for an output that holds a run, unless `resume`; Interrupted after Ctrl-C.
    """
    check(epochs, batch, learning_rate, output, resume)
    if not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` must be positive, got {temperature}")
    for name, value in (("features", features), ("labels", labels)):
        if not 0 <= value < math.inf:
            raise ValueError(f"`{name}` must be non-negative, got {value}")
    images = _Images(data, labelled=labels > 0)
    if not len(images):
        raise ValueError("`data` must hold at least one image, got none")
    goal = _Likeness(student, teacher, layers if features else (), temperature, features, labels)
    place = tempfile.TemporaryDirectory() if output is None else contextlib.nullcontext(output)
    with (
        place as folder,
        trainer.joined() as group,
        in_eval(student),
        in_eval(teacher),
        goal.watching(),
    ):
        settings = trainer.Settings(
            epochs=epochs,
            batch=min(batch, max(1, len(images) // group.size)),
            learning_rate=learning_rate,
            weight_decay=0.0,
            warm_up=0,
            optimiser="adam",
            seed=seed,
            fused=fused,
        )
        try:
            return trainer.train(
                student,
                trainer.Data(images, None, ()),
                Path(folder),
                settings,
                objective=goal,
                resume=resume,
                workers=workers,
                tell=None if progress is None else _Telling(progress),
            )
        except trainer.Interrupted:
            if output is None:
                raise trainer.Interrupted("interrupted in distilling: nothing was kept") from None
            raise


def check(epochs: int, batch: int, learning_rate: float, output: Path | None, resume: bool) -> None:
    """Refuse, before anything long, what `distil` would refuse of these."""
    integer("epochs", epochs)
    integer("batch", batch)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` must be positive, got {learning_rate}")
    if output is not None:
        trainer.check_output(output, resume)
    elif resume:
        raise ValueError("`resume` must go with an `output` to go on from, got none")


class _Likeness:
    """How far a student's answers and features are from its teacher's: an objective for the trainer."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        layers: Sequence[str],
        temperature: float,
        features: float,
        labels: float,
    ) -> None:
        self.student, self.teacher, self.layers = student, teacher, tuple(layers)
        self.temperature, self.features, self.labels = temperature, features, labels
        self.got: dict[str, Tensor] = {}
        self.aim: dict[str, Tensor] = {}

    def loss(self, images: Tensor, labels: Tensor, answers: Any) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(images)
        if not isinstance(wanted, Tensor) or wanted.dim() != 2:
            got = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
            raise ValueError(f"`teacher` must give one number per class for each image, got {got}")
        if not bool(torch.isfinite(wanted).all()):
            raise ValueError("`data` must be finite, and the teacher's answers to it, got NaN or infinity")
        loss = soft_labels(answers, wanted, self.temperature)
        if self.layers:
            loss = loss + self.features * self._differences()
        if self.labels:
            loss = loss + self.labels * functional.cross_entropy(answers, labels)
        return loss

    def signature(self) -> dict[str, Any]:
        weights = {"features": self.features, "labels": self.labels}
        return {"temperature": self.temperature, **weights, "layers": list(self.layers)}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the outputs of the layers of both networks while the block runs."""
        with _watched(self.student, self.layers, self.got), _watched(self.teacher, self.layers, self.aim):
            yield

    def _differences(self) -> Tensor:
        errors = [
            (self.got[name] - self.aim[name]).square().mean() / self.aim[name].var().clamp_min(1e-12)
            for name in self.layers
        ]
        return torch.stack(errors).mean()


def soft_labels(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² times the divergence of the wanted class distribution from the one given, both at temperature T."""
    given = functional.log_softmax(logits / temperature, dim=-1)
    aim = functional.log_softmax(wanted / temperature, dim=-1)
    return functional.kl_div(given, aim, reduction="batchmean", log_target=True) * temperature**2


class _Images(trainer.Examples):
    """The images of a tensor or a dataset, with their labels, or with 0 where nobody asks."""

    def __init__(self, data: Any, *, labelled: bool) -> None:
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            kind = type(data).__name__
            raise TypeError(f"`data` must be a tensor of images or a dataset with a length, got {kind}")
        self.data, self.labelled = data, labelled

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._pair(self.data[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """A whole batch, where the dataset can give one faster than its images one by one."""
        together = getattr(self.data, "__getitems__", None)
        items = together(indices) if together else [self.data[index] for index in indices]
        return [self._pair(item) for item in items]

    def _pair(self, item: Any) -> tuple[Tensor, int]:
        image, *rest = item if isinstance(item, tuple | list) else (item,)
        if not isinstance(image, Tensor):
            raise TypeError(f"`data` must hold images as tensors, got {type(image).__name__}")
        if not self.labelled:
            return image, 0
        if not rest:
            raise ValueError("`labels` must be 0 where `data` has none, got images alone")
        return image, int(rest[0])


class _Telling(trainer.Tell):
    """The trainer's reports, as the conversion's progress."""

    def __init__(self, progress: Callable[[str, float], None]) -> None:
        self.progress = progress

    def epoch(self, number: int, epochs: int) -> None:
        self.number, self.epochs = number, epochs

    def step(self, share: float, loss: float) -> None:
        text = f"distilling, epoch {self.number} of {self.epochs}"
        self.progress(text, (self.number - 1 + share) / self.epochs)


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
