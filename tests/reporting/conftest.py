from __future__ import annotations

import pytest

from ninefold.reporting import data


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
