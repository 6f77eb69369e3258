"""What a step makes smaller: by default the cross-entropy with the labels."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional


class Objective(Protocol):
    """What `train` minimises, and what a resumed run must share with the one it goes on with."""

    def loss(self, images: Tensor, labels: Tensor, answers: Any) -> Tensor:
        """One number for a batch, the mean over its images, that gradients can flow back from."""
        ...

    def signature(self) -> dict[str, Any]:
        """Plain numbers and words, by name, that the checkpoint keeps."""
        ...


class Labels:
    """Cross-entropy with the labels, of which `smoothing` goes to all classes."""

    def __init__(self, classes: int, smoothing: float = 0.0) -> None:
        self.classes, self.smoothing = classes, smoothing

    def loss(self, images: Tensor, labels: Tensor, answers: Any) -> Tensor:
        """ValueError for answers that are not (images, classes or more)."""
        if not isinstance(answers, Tensor) or answers.dim() != 2 or answers.shape[1] < self.classes:
            got = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
            wanted = f"at least {self.classes} numbers an image, one a class"
            raise ValueError(f"`model` must give {wanted}, got {got}")
        return functional.cross_entropy(answers, labels, label_smoothing=self.smoothing)

    def signature(self) -> dict[str, Any]:
        """Nothing that the settings do not say."""
        return {}
