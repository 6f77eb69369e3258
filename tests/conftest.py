"""Fixtures for every test that runs kernels: each instruction set of this machine, one thread and two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def _instruction_sets() -> list[str]:
    try:
        from ninefold.ops import cpu
    except ImportError:
        return []
    return list(cpu.instruction_sets()) if cpu.available() else []


@pytest.fixture(params=[*_instruction_sets(), "fallback"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test on each instruction set, and on PyTorch's own operators ("fallback")."""
    from ninefold.ops import backend

    if request.param == "fallback":
        monkeypatch.setattr(backend, "kernels", lambda: None)
        yield request.param
        return
    from ninefold.ops import cpu

    with cpu.forced(request.param):
        yield request.param


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test with one thread and with two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
