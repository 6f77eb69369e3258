"""Two processes under torchrun: what they learn together is what PyTorch says they do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ninefold import training

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    file = tmp_path_factory.mktemp("together") / "found.pt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file)


def test_synchronised_statistics_make_two_processes_one(script, together):
    model = script.network()
    alone = script.step(model, model, *script.images())
    for name, tensor in alone.items():
        torch.testing.assert_close(together["synchronised"][name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_without_them_each_process_has_its_own(script, together):
    model = script.network()
    alone = script.step(model, model, *script.images())
    assert (together["eager"]["1.running_mean"] - alone["1.running_mean"]).abs().max() > 1e-3


def test_fused_chains_under_distributed_data_parallel(together):
    for name, tensor in together["eager"].items():
        torch.testing.assert_close(together["fused"][name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_synchronising_needs_processes():
    with pytest.raises(ValueError, match="must be trained by several processes, got no process group"):
        training.synchronise(nn.Identity())
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got int"):
        training.synchronise(3)
