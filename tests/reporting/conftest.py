from __future__ import annotations

from typing import Any

import pytest

from ninefold import cost
from ninefold.reporting import data, facts


@pytest.fixture
def examination() -> data.Examination:
    guesses = (data.Guess(285, "Egyptian cat", 0.354), data.Guess(282, "<tiger> & cat", 0.0004))
    return data.Examination(
        network="a & b <net>",
        trained=True,
        input_size=(224, 192),
        photo="cat's.png",
        photo_uri="data:image/jpeg;base64,AAAA",
        plain=(
            data.Contender("PyTorch, NCHW", guesses, 0.0302, 0.01),
            data.Contender("PyTorch, channels-last", guesses, 0.02, 0.02),
        ),
        ninefold=data.Contender("Ninefold", guesses, 0.01, 0.03),
        speedup=2.04,
        rounds=17,
        logit_difference=7.9e-8,
        fused_share=1.0,
        count=data.Count(385_187_552, 4_608_992, 3_023_631_360, 32_487_648, 16, 186_000_000),
        layers=(
            data.Layer("stem", "standard 3×3, 3 → 32", 10_838_016, 10_838_016, "packed", ""),
            data.Layer("a → b", "separable 3×3, 32 → 16", 10_035_200, 57_802_752, "fused", ""),
            data.Layer("head", "linear, 1280 → 1000", 1_280_000, 1_280_000, "PyTorch", "not a <convolution>"),
        ),
        machine=data.Machine(
            processor="A Processor",
            threads=1,
            instruction_set="avx2",
            gflops=100.0,
            bandwidths=(data.Bandwidth("L2", 1 << 19, 66.0), data.Bandwidth("DRAM", 1 << 27, 17.0)),
            measured_with="ninefold's own loops",
            versions=(("ninefold", "0.1.0"), ("torch", "2.13.0")),
        ),
        command="ninefold demo --threads 1",
    )


@pytest.fixture
def machine(examination: data.Examination) -> data.Machine:
    return examination.machine


def row(position: int, name: str, kind: str, multiplications: int, size: int, **more: Any) -> facts.Row:
    shape = (1, 8, 14, 14)
    given: dict[str, Any] = {
        "operator": "convolution",
        "input_shape": shape,
        "output_shape": shape,
        "weight_shape": (8, 8, 3, 3),
        "kernel_size": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "parameters": 576,
        "limit": facts.Limit(1e-5, "arithmetic"),
        "seconds": 2e-5,
        "block": None,
    }
    return facts.Row(position, name, kind, multiplications=multiplications, bytes=size, **{**given, **more})


@pytest.fixture
def report(examination: data.Examination) -> facts.Report:
    """A network with a pair, a layer in PyTorch, and hard names."""
    stem, pair = cost.standard(3, 8, 3, 14), cost.separable(8, 16, 3, 14)
    first, last = cost.depthwise(8, 3, 14), cost.pointwise(8, 16, 14)
    limit = facts.Limit(1e-5, "L2")
    rows = (
        row(0, "stem", "standard", stem.multiplications, 9_000, parameters=stem.parameters, block=0),
        row(1, "a.dw", "depthwise", first.multiplications, 30_000, parameters=first.parameters, block=1),
        row(
            2,
            "a.pw",
            "pointwise",
            last.multiplications,
            20_000,
            parameters=last.parameters,
            block=1,
            kernel_size=(1, 1),
            output_shape=(1, 16, 14, 14),
        ),
        row(
            3,
            "=up</script><b>",
            "transposed",
            10_000,
            5_000,
            parameters=64,
            block=2,
            stride=(2, 2),
            seconds=3e-4,
        ),
    )
    blocks = (
        facts.Block(("stem",), "packed", "convolution 3×3", stem.multiplications, 9_000, limit, 1e-5),
        facts.Block(("a.dw", "a.pw"), "fused", "relu6", pair.multiplications, 40_000, limit, 3e-5),
        facts.Block(("=up</script><b>",), "PyTorch", "a transposed convolution", 10_000, 5_000, limit, None),
    )
    whole = cost.standard(8, 16, 3, 14)
    swap = facts.Swap(
        "a.dw + a.pw",
        "3×3, 8 → 16, 14×14",
        "separable",
        whole.multiplications,
        pair.multiplications,
        whole.parameters,
        pair.parameters,
        8e-5,
        facts.Alone(9e-5, 2e-5),
        facts.Alone(1e-4, 5e-5),
    )
    could = facts.Swap(
        "stem",
        "3×3, 3 → 8, 14×14",
        "standard",
        42_336,
        10_000,
        216,
        51,
        1e-6,
        facts.Alone(1e-5, 2e-5),
        facts.Alone(1e-5, 5e-5),
    )
    return facts.Report(
        network="a & b <net>",
        trained=False,
        inputs=((1, 3, 14, 14),),
        parameters=1_000,
        rows=rows,
        blocks=blocks,
        shares=(facts.Share("transposed", 1, 10_000, 3e-4), facts.Share("standard", 1, 42_336, 2e-5)),
        steps=(facts.Share("depthwise + pointwise, fused", 1, 0, 3e-5),),
        contenders=(
            data.Contender("PyTorch, NCHW", (), 0.0005, 0.1),
            data.Contender("PyTorch, channels-last", (), 0.0004, 0.1),
            data.Contender("Ninefold", (), 0.0001, 0.1),
        ),
        plain="PyTorch, channels-last",
        speedup=4.1,
        rounds=17,
        difference=1e-7,
        saved=(swap,),
        could_save=(could,),
        convert="ninefold convert net",
        notes=("Something else ran.",),
        machine=examination.machine,
        command="ninefold report net",
    )
