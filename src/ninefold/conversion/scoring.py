"""How many of a network's answers are right, at each stage of its conversion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ninefold.census import in_eval
from ninefold.conversion.result import Conversion
from ninefold.conversion.steps import singular_values_alone

ORIGINAL, ALONE = "original", "singular values alone"


def scored(
    conversion: Conversion, original: nn.Module, batches: Iterable[Any], *, stage: str = "converted"
) -> Conversion:
    """`conversion` with its accuracy on `batches` of (inputs, labels), under the name of `stage`.

    Beside it, unless they are there already, those of the original and of the same terms from singular values
    alone. So call it again with what it returned after another stage, as distilling.
    """
    accuracies = dict(conversion.accuracies)
    if ORIGINAL not in accuracies:
        accuracies[ORIGINAL] = accuracy(original, batches)
        if any(layer.calibrated for layer in conversion.layers):
            accuracies[ALONE] = accuracy(singular_values_alone(conversion, original), batches)
    accuracies[stage] = accuracy(conversion.model, batches)
    return replace(conversion, accuracies=accuracies)


def accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    """The share, from 0 to 1, of the inputs whose highest answer is their label; taken in eval mode.

    Raises ValueError for answers that are not one number per class, and for no inputs.
    """
    right = seen = 0
    with in_eval(model), torch.no_grad():
        for inputs, labels in batches:
            answers = model(inputs)
            if not isinstance(answers, Tensor) or answers.dim() != 2:
                got = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
                raise ValueError(f"`model` must answer with one number per class to be tested, got {got}")
            right += int((answers.argmax(1) == labels).sum())
            seen += len(inputs)
    if not seen:
        raise ValueError("`batches` must yield at least one input and its label, got none")
    return right / seen
