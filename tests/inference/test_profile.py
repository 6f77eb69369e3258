from __future__ import annotations

import pytest
import torch
from torch import nn

from ninefold import for_inference
from ninefold.inference.profile import profile


def test_every_part_has_its_layers_and_its_time(isa):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 8, 1),
        nn.ConvTranspose2d(8, 4, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()
    x = torch.randn(1, 3, 16, 16)
    parts = profile(for_inference(model, x), x)
    labels = [part.label for part in parts if part.label]
    assert labels[:2] == ["0", "2 + 3"] and "7" in labels
    assert any(part.what == "conv_transpose2d" for part in parts)
    assert all(part.seconds > 0 for part in parts)


def test_a_network_that_runs_whole_in_pytorch_has_no_parts():
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu() if x.sum() > 0 else x

    x = torch.randn(1, 3, 4, 4)
    with pytest.warns(RuntimeWarning, match="could not be captured"):
        fast = for_inference(Undecided(), x)
    with pytest.raises(
        ValueError, match="`model` must have parts to time, but the whole network runs in PyTorch"
    ):
        profile(fast, x)
