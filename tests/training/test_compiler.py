"""How the backend is found, and what it does where it cannot help."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import tomllib
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest
import torch
from torch import nn

import ninefold.training
from ninefold.ops import backend, sequence
from ninefold.training import compiler

GROUP = "torch_dynamo_backends"
ROOT = Path(__file__).parents[2]


def declared() -> EntryPoint:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return EntryPoint("ninefold", project["entry-points"][GROUP]["ninefold"], GROUP)


def test_the_entry_point_is_the_backend():
    assert declared().load() is ninefold.training.backend
    installed = [
        entry
        for distribution in distributions(name="ninefold")
        for entry in distribution.entry_points.select(group=GROUP)
    ]
    assert all(entry.value == declared().value for entry in installed)


def test_the_room_registers_it_once():
    assert torch._dynamo.list_backends().count("ninefold") == 1
    assert torch._dynamo.lookup_backend("ninefold") is ninefold.training.backend


PROGRAM = """
import sys, torch
from torch import nn
assert "ninefold" not in sys.modules
model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
fast = torch.compile(model, backend="ninefold")
with torch.no_grad():
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(fast(x), model(x))
assert "ninefold.training" in sys.modules
"""


def test_an_installed_ninefold_is_found_by_name(tmp_path):
    info = tmp_path / "ninefold-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ninefold\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nninefold = {declared().value}\n")
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / 'src')!r}]\n"
    if installed_elsewhere():
        path = ""
    done = subprocess.run(
        [sys.executable, "-c", path + PROGRAM], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def installed_elsewhere() -> bool:
    """Whether a real installation is being tested, which needs no help to be found."""
    return any(
        entry.name == "ninefold"
        for distribution in distributions(name="ninefold")
        for entry in distribution.entry_points.select(group=GROUP)
    )


@pytest.fixture
def told(caplog):
    """What the backend said."""
    caplog.set_level(logging.INFO, "ninefold")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "ninefold"]


def test_it_says_what_became_of_a_graph(model, images, compiled, told):
    fast = compiled(model)
    with torch.no_grad():
        fast(images)
    fast(images)
    assert told() == [
        "torch.compile: 5 convolutions run as 3 kernels",
        "torch.compile: 4 of 5 convolutions train in 2 fused chains\n"
        "  fused    first.0 + first.3\n"
        "  fused    second.0 + second.3\n"
        "  PyTorch  stem: neither depthwise nor followed by batch-norm",
    ]


def test_without_the_extension_pytorch_runs_it(model, images, compiled, kernels, told, monkeypatch):
    monkeypatch.setattr(backend, "kernels", lambda: None)
    fast = compiled(model)
    with torch.no_grad():
        assert torch.equal(fast(images), model(images))
    assert told() == ["torch.compile: a graph runs in PyTorch: the compiled kernels are not installed"]
    assert not kernels.since()


def test_a_graph_without_convolutions(compiled, told):
    fast = compiled(nn.Linear(4, 4).eval())
    with torch.no_grad():
        fast(torch.randn(2, 4))
    assert told() == ["torch.compile: a graph runs in PyTorch: it has no convolution"]


def test_a_graph_that_cannot_be_read(model, images, compiled, told, monkeypatch):
    def broken(*_):
        raise KeyError("something new in PyTorch")

    monkeypatch.setattr(compiler, "capture", broken)
    fast = compiled(model)
    with torch.no_grad():
        assert torch.equal(fast(images), model(images))
    assert told() == ["torch.compile: a graph runs in PyTorch, because reading it failed"]


@pytest.mark.parametrize("how", ["wrong", "raising"])
def test_kernels_that_disagree_are_not_used(model, images, compiled, monkeypatch, how):
    def wrong(self, inputs):
        if how == "raising":
            raise RuntimeError("no such step")
        return tuple(x + 1 for x in run(self, inputs))

    run = sequence.Sequence.run
    monkeypatch.setattr(sequence.Sequence, "run", wrong)
    fast = compiled(model)
    said = "no such step" if how == "raising" else "its kernels disagreed with PyTorch"
    with torch.no_grad():
        with pytest.warns(RuntimeWarning, match=said):
            assert torch.equal(fast(images), model(images))
        assert torch.equal(fast(images), model(images))


def test_without_memory_a_call_raises_and_the_next_has_the_kernels(model, images, compiled, monkeypatch):
    def exhausted(self, inputs):
        raise MemoryError("std::bad_alloc")

    fast, run, calls = compiled(model), sequence.Sequence.run, []
    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(sequence.Sequence, "run", exhausted)
            with pytest.raises(MemoryError):
                fast(images)
        monkeypatch.setattr(
            sequence.Sequence, "run", lambda self, inputs: calls.append(1) or run(self, inputs)
        )
        torch.testing.assert_close(fast(images), model(images), rtol=1e-5, atol=1e-5)
    assert calls


def test_several_threads(model, compiled):
    fast = compiled(model)
    images = [torch.randn(2, 3, 12, 12) for _ in range(8)]
    with torch.no_grad():
        fast(images[0])
        wanted = [model(x) for x in images]
        model.stem.bias.add_(0)  # so that they meet at the packing
    failures = []

    def work(number):
        with torch.no_grad():
            for _ in range(20):
                got = fast(images[number])
                if not torch.allclose(got, wanted[number], rtol=1e-5, atol=1e-5):
                    failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_compiling_in_place(model, images, agree, kernels):
    model.compile(backend="ninefold")
    keys = list(model.state_dict())
    with torch.no_grad():
        agree(model, model.forward, images)
    assert kernels.since()
    assert list(model.state_dict()) == keys
