"""One step of two processes, as torchrun starts them; what they end with goes into the file that is named."""

from __future__ import annotations

import sys

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ninefold
from ninefold import training


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.BatchNorm2d(8, momentum=0.3),
        nn.SiLU(),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.BatchNorm2d(16, affine=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).train()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 16, 16, generator=generator) * 2 + 3, torch.arange(8) % 5


def step(model: nn.Module, run: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two steps of SGD; every parameter and running statistic."""
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(run(x), labels).backward()
        optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def main(path: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    x, labels = images()
    mine = x[rank::2], labels[rank::2]
    found = {}
    model = training.synchronise(network())
    found["synchronised"] = step(model, DistributedDataParallel(model), *mine)
    for name, prepare in (("fused", ninefold.for_training), ("eager", lambda model: model)):
        model = prepare(network())
        found[name] = step(model, DistributedDataParallel(model), *mine)
    if rank == 0:
        torch.save(found, path)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
