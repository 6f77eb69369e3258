"""Accuracy at each stage of a conversion, and how a conversion tells it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ninefold.conversion import accuracy, convert, scored, timed

X = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Brightest(nn.Module):
    """Answers with the mean of each channel; in training mode always with 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * (not self.training)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), Brightest()).eval()


def test_accuracy_is_the_share_of_right_answers_in_eval_mode() -> None:
    labels = X.mean((2, 3)).argmax(1)
    labels[:6] = (labels[:6] + 1) % 3
    model = Brightest().train()
    batches = list(zip(X.split(7), labels.split(7), strict=True))
    assert accuracy(model, batches) == 24 / 30 and model.training


def test_each_stage_is_told_beside_the_ones_before() -> None:
    model = network()
    with torch.no_grad():
        batches = [(X, model(X).argmax(1))]
    found = scored(convert(model, X[:1], X, 1), model, batches, stage="calibrated")
    assert list(found.accuracies) == ["original", "singular values alone", "calibrated"]
    assert found.accuracies["original"] == 1
    found.model[0].weight.data.zero_()
    again = scored(found, nn.Linear(1, 1), batches, stage="distilled")  # the original is not asked again
    assert list(again.accuracies) == [*found.accuracies, "distilled"]
    assert again.accuracies["calibrated"] == found.accuracies["calibrated"]
    assert again.accuracies["distilled"] == accuracy(found.model, batches)
    alone = scored(convert(model, X[:1]), model, batches)
    assert list(alone.accuracies) == ["original", "converted"]


def test_the_summary_tells_what_was_measured() -> None:
    model = network()
    found = scored(convert(model, X[:1], X, 1), model, [(X, torch.zeros(len(X), dtype=torch.long))])
    text = timed(found, model, X[:1], seconds=0.05).summary()
    before, after = found.accuracies["original"], found.accuracies["converted"]
    assert f"accuracy: original {100 * before:.2f} %" in text and f"converted {100 * after:.2f} %" in text
    layer = next(line for line in text.splitlines() if line.startswith("2  1 term"))
    assert layer.endswith(" ms") and " → " in layer
    assert "converted, Ninefold: " in text


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model` must answer with one number per class .*, got \(30, 3, 8"):
        accuracy(nn.Identity(), [(X, torch.zeros(30))])
    with pytest.raises(ValueError, match="`batches` must yield at least one input and its label, got none"):
        accuracy(nn.Identity(), [])
