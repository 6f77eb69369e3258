from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import pytest
import torch

from ninefold import machine, measure


def test_candidates_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    comparison = measure.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0, rounds=(3, 10)
    )
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * 3
    assert [len(timing.samples) for timing in comparison.timings] == [3, 3]


def test_rounds_stop_at_the_most() -> None:
    comparison = measure.interleaved({"a": lambda: None}, seconds=1e9, rounds=(1, 4))
    assert len(comparison["a"].samples) == 4


def test_progress_reaches_one_and_never_falls() -> None:
    told: list[float] = []
    measure.interleaved({"a": lambda: None}, seconds=0, rounds=(5, 10), progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) == 5


def test_a_ratio_is_taken_round_by_round() -> None:
    slow = measure.Timing("slow", (2.0, 30.0, 4.0))
    fast = measure.Timing("fast", (1.0, 10.0, 1.0))
    comparison = measure.Comparison((slow, fast), threads=1)
    assert comparison.ratio("slow", "fast") == 3.0
    assert comparison["slow"].median == 4.0
    assert comparison.fastest("slow", "fast") == "fast"
    with pytest.raises(KeyError):
        comparison["neither"]


def test_spread_is_half_the_quartiles_distance() -> None:
    assert measure.Timing("", (1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(1 / 3)
    assert measure.Timing("", (2.0,)).spread == 0


def test_threads_are_set_and_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), measure.torch_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_garbage_collection_comes_back() -> None:
    seen: list[bool] = []
    measure.interleaved({"a": lambda: seen.append(gc.isenabled())}, seconds=0, rounds=(1, 1))
    assert seen[-1] is False and gc.isenabled()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`candidates` must name something to time"):
        measure.interleaved({})
    with pytest.raises(ValueError, match=r"`rounds` must be \(least, most\).*got \(5, 2\)"):
        measure.interleaved({"a": lambda: None}, rounds=(5, 2))
    with pytest.raises(ValueError, match="`threads` must be positive, got 0"):
        measure.interleaved({"a": lambda: None}, threads=0)
    with pytest.raises(ValueError, match="`threads` must be positive, got -1"):
        measure.limits(-1)


@pytest.mark.parametrize("compiled", [True, False])
def test_limits_are_measured_with_or_without_the_extension(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(measure, "extension", lambda: None)
    found = measure.limits(1, seconds=0.01, tries=1)
    assert found.threads == 1 and found.gflops > 0
    assert found.bandwidths[-1].level == "DRAM"
    assert all(bandwidth.gigabytes_per_second > 0 for bandwidth in found.bandwidths)
    assert ("PyTorch" in found.measured_with) == (not compiled or measure.extension() is None)


def test_the_better_of_two_measurements_figure_by_figure() -> None:
    def found(gflops: float, *speeds: float) -> measure.Limits:
        levels = zip(("L2", "DRAM"), speeds, strict=True)
        bandwidths = tuple(measure.Bandwidth(level, 1, speed) for level, speed in levels)
        return measure.Limits(1, gflops, bandwidths, "")

    assert measure.better(found(90, 20, 30), found(100, 60, 10)) == found(100, 60, 30)


def test_share_of_peak_counts_an_addition_with_each_multiplication() -> None:
    found = measure.Limits(threads=1, gflops=100.0, bandwidths=(), measured_with="")
    assert found.share_of_peak(10**9, 0.04) == pytest.approx(0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="this machine has no processor affinity")
def test_pinning_to_a_processor_there_is_not_is_refused() -> None:
    allowed = os.sched_getaffinity(0)
    with pytest.raises(ValueError, match="`processors` must be among"):
        measure.pin({max(allowed) + 1})
    measure.pin(allowed)
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine has no glibc")
def test_kept_memory_is_not_fetched_again() -> None:
    # In a process of its own: this one would keep its memory from then on.
    program = (
        "import resource, torch\n"
        "from ninefold import measure\n"
        "assert measure.keep_memory()\n"
        "def use(): [torch.ones(1 << 20) for _ in range(4)]\n"
        "for _ in range(4): use()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000  # of 40960 pages


def test_one_openmp_runtime_is_mapped_once_torch_is_in() -> None:
    torch.rand(4) @ torch.rand(4)
    assert len(machine.openmp_runtimes()) == (1 if sys.platform == "linux" else 0)


def test_the_machine_is_described() -> None:
    assert machine.processor() and machine.cores() >= 1
    assert all(size > 0 for size in machine.caches().values())
