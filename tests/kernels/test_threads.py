"""The kernels run on PyTorch's own OpenMP threads, and the same count of threads gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

import ninefold

_kernels = pytest.importorskip("ninefold._kernels", reason="the extension is not built")

ONE_RUNTIME = """
import re, torch, ninefold
x, depthwise, pointwise = torch.ones(1, 32, 9, 9), torch.ones(32, 1, 3, 3), torch.ones(8, 32, 1, 1)
ninefold.ops.separable_conv2d(x, depthwise, pointwise, padding=1)
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
mapped = {line.split()[-1] for line in open("/proc/self/maps")}
runtimes = [path for path in mapped if re.search("gomp|iomp|libomp", path)]
print(len(runtimes), *runtimes)
"""


def test_one_openmp_runtime_is_mapped() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_RUNTIME], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 "), done.stdout


BOUND = """
import os, torch, ninefold._kernels as kernels
cores = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(cores)})
print(kernels.cores() == len(cores))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound here")
def test_a_thread_bound_to_a_core_may_lead_a_team_on_the_others() -> None:
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.fixture
def layer() -> tuple[torch.Tensor, ...]:
    """A fused layer whose sums round: its bits tell whether the order of additions changed."""
    torch.manual_seed(0)
    return torch.randn(2, 96, 14, 14), torch.randn(96, 1, 3, 3), torch.randn(40, 96, 1, 1)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_runs_are_bitwise_equal(layer: tuple[torch.Tensor, ...], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = ninefold.ops.separable_conv2d(*layer, padding=1, activation="silu")
        for _ in range(5):
            assert torch.equal(ninefold.ops.separable_conv2d(*layer, padding=1, activation="silu"), first)
    finally:
        torch.set_num_threads(before)


def test_many_python_threads_at_once(layer: tuple[torch.Tensor, ...]) -> None:
    wanted = ninefold.ops.separable_conv2d(*layer, padding=1)
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not torch.equal(ninefold.ops.separable_conv2d(*layer, padding=1), wanted):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
