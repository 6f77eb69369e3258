"""Our counts against PyTorch's flop counter and fvcore on timm networks; the docs explain where they differ.

Where they count the same thing, they must agree to the last multiplication.
"""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ninefold import census, models
from ninefold.reporting.facts import CONVOLUTIONS

SMALL = 96  # pixels; the networks that fix their size keep it
NETWORKS = (
    *("resnet18", "resnext50_32x4d", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100"),
    *("efficientnet_lite0", "efficientnet_b0", "mnasnet_100", "mobilenetv4_conv_small", "ghostnet_100"),
    *("convnext_atto", "xception41", "densenet121", "inception_v3", "regnety_004", "hrnet_w18_small"),
    *("repvgg_a0", "edgenext_xx_small", "pvt_v2_b0", "poolformer_s12"),
)
OF_ONE_SIZE = ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "mobilevit_xxs")
# What fvcore counts besides, a few operations for each number; to us these are no multiplications.
BESIDES = {"batch_norm", "layer_norm", "group_norm", "adaptive_avg_pool2d", "upsample_nearest2d"}
PRODUCTS = ("linear", "addmm", "matmul", "bmm", "einsum")


@pytest.mark.parametrize("name", [*NETWORKS, *OF_ONE_SIZE])
def test_the_counts_agree_with_pytorchs_and_fvcores(name, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fvcore"), "disabled", True)
    from fvcore.nn import FlopCountAnalysis

    network = models.load(f"timm:{name}")
    x = network.example() if name in OF_ONE_SIZE else torch.randn(1, 3, SMALL, SMALL)
    ours: Counter[str] = Counter()
    for each in census.take(network.model, (x,)).operators:
        ours[each.kind] += each.multiplications

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.model(x)
    # PyTorch has no rule for the attention of the CPU.
    assert 2 * (ours.total() - ours["attention"]) == counter.get_total_flops()

    analysis = FlopCountAnalysis(network.model, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    theirs = analysis.by_operator()
    assert theirs["conv"] == sum(ours[kind] for kind in CONVOLUTIONS)
    assert sum(theirs[product] for product in PRODUCTS) == ours["linear"] + ours["matrix product"]
    assert {kind for kind, count in theirs.items() if count} <= {"conv", *PRODUCTS, *BESIDES}
    has_attention = any("attention" in operator for operator in analysis.unsupported_ops())
    assert has_attention == bool(ours["attention"])
