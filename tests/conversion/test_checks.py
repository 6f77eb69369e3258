"""What `convert` refuses: in one line, before any work, and without touching the network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ninefold import convert


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3),
        nn.Flatten(),
    ).eval()


X = torch.randn(4, 3, 12, 12)
NAN = X.clone()
NAN[1, 0, 0, 0] = float("nan")


def once() -> Iterator[Tensor]:
    yield X


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (
            TypeError,
            {"calibration": once()},
            "`calibration` must be readable more than once.*got generator",
        ),
        (TypeError, {"calibration": 3}, "`calibration` must be a tensor or yield batches of inputs, got int"),
        (ValueError, {"calibration": []}, "`calibration` must yield at least one image, got none"),
        (ValueError, {"calibration": X[:0]}, "`calibration` must yield at least one image, got none"),
        (
            ValueError,
            {"calibration": [torch.arange(4)]},
            r"`calibration` must yield inputs like the example's, \(batch, 3, 12, 12\) of float32, "
            r"got \(batch\) of int64 in batch 0",
        ),
        (ValueError, {"calibration": [X, X[..., :8]]}, r"got \(batch, 3, 12, 8\) of float32 in batch 1"),
        (ValueError, {"calibration": X.double()}, "of float64 in batch 0"),
        (TypeError, {"calibration": [["a", "b"]]}, "got str in batch 0"),
        (ValueError, {"calibration": [X, (NAN, 1)]}, "`calibration` must be finite, got NaN in batch 1"),
        (ValueError, {"calibration": [X / 0]}, "`calibration` must be finite, got"),
        (ValueError, {"budget": 0}, "`budget` must be above 0 and at most 1, got 0"),
        (ValueError, {"budget": 1.5}, "`budget` must be above 0 and at most 1, got 1.5"),
        (ValueError, {"budget": float("nan")}, "`budget` must be above 0 and at most 1, got nan"),
        (TypeError, {"budget": "a quarter"}, "`budget` must be a number, got 'a quarter'"),
        (
            ValueError,
            {"budget": 0.1},
            r"`budget` must be at least 0\.\d+, which one term in every layer",
        ),
        (ValueError, {"budget": 0.5, "terms": 1}, "`terms` and `budget` exclude each other"),
        (ValueError, {"terms": 0}, "`terms` must be positive, got 0"),
        (TypeError, {"terms": 1.5}, "`terms` must be an int, got 1.5"),
        (ValueError, {"order": "both"}, "`order` must be 'depthwise', 'pointwise' or 'best', got 'both'"),
        (ValueError, {"layers": ["7"]}, "`layers` must be among the Conv2d layers 0, 3, 6, got '7'"),
        (ValueError, {"calibration": X, "memory": 1000}, "`memory` must be at least .*, got 1,000"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    error: type[Exception], arguments: dict[str, Any], words: str
) -> None:
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words) as caught:
        convert(model, X, **arguments)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1)), r"got none \(0: it is pointwise already\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"got none \(0: the first layer stays\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 2)), r"got none \(it calls no Conv2d\)"),
    ],
)
def test_a_network_without_an_eligible_layer_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match="`model` must have a convolution to convert, " + words):
        convert(model, X)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = small()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="`model` must have finite weights, got NaN or infinity in 3"):
        convert(model, X)
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got dict"):
        convert({}, X)  # type: ignore[arg-type]
