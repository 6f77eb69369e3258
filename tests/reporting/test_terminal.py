from __future__ import annotations

import dataclasses
import io

from rich.console import Console, RenderableType

from ninefold.reporting import data, terminal


def text(shown: RenderableType) -> str:
    file = io.StringIO()
    Console(file=file, width=100, highlight=False, markup=False).print(shown)
    return file.getvalue()


def test_the_figures_are_in_the_tables(examination: data.Examination) -> None:
    shown = text(terminal.examination(examination))
    for figure in (
        "385,187,552",
        "3,023,631,360",
        "0.1274",
        "4,608,992",
        "0.1419",
        "Egyptian cat (285)",
        "30.20 ms",
        "10.00 ms",
        "77 %",
        "2.04× as fast as PyTorch, channels-last",
        "7.9e-08 of the logits' range",
        "peak 100.0 GFLOP/s, memory L2 66.0, DRAM 17.0 GB/s, with 1 thread",
        "1 fused, 1 packed, 1 PyTorch; 100 % of the separable multiplications",
    ):
        assert figure in " ".join(shown.split()), figure
    assert "random weights" not in shown


def test_random_weights_are_admitted(examination: data.Examination) -> None:
    assert "random weights" in text(terminal.examination(dataclasses.replace(examination, trained=False)))


def test_a_name_with_brackets_stays_whole(examination: data.Examination) -> None:
    assert "[red]net" in text(terminal.examination(dataclasses.replace(examination, network="[red]net")))
