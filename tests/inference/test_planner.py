from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import ninefold
from ninefold.inference import capture, match, planner, rewrite

# A machine of round numbers: 1 multiplication a nanosecond; 1 MB near, 10 MB further, then all.
COSTS = planner.Costs(
    1e9, (planner.Level(1e6, 8e9), planner.Level(1e7, 4e9), planner.Level(float("inf"), 1e9))
)


def inverted(channels: int, wide: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, wide, 1),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
        nn.ReLU(),
        nn.Conv2d(wide, channels, 1),
    )


def block_of(model: nn.Module, x: torch.Tensor) -> match.Block:
    captured = capture.capture(model.eval(), (x,))
    rewrite.simplify(captured.graph.graph)
    (block,) = match.find(captured.graph).blocks
    return block


@pytest.fixture(scope="module")
def block() -> match.Block:
    return block_of(inverted(4, 16), torch.randn(2, 4, 10, 10))


def test_the_forms_of_a_block_fused_first(block: match.Block) -> None:
    words = [planner.in_words(form) for form in planner.forms(block)]
    assert words == [
        "pointwise + depthwise + pointwise",
        "pointwise | depthwise + pointwise",
        "pointwise | depthwise | pointwise",
    ]
    for form in planner.forms(block):
        assert [stage for part in form for stage in part.stages] == list(block.stages)
        assert form[-1].tail is block.tail
    single = match.Block(block.stages[:1])
    assert planner.forms(single) == ((single,),)


def test_a_stage_takes_its_arithmetic_or_its_traffic_whichever_is_longer(block: match.Block) -> None:
    form = (match.Block(block.stages[:1]),)
    pixels = 2 * 10 * 10
    arithmetic = pixels * 4 * 16 / 1e9 / 0.85
    assert planner.estimate(form, COSTS) == pytest.approx(arithmetic)
    quick = replace(COSTS, multiplications=1e15)
    assert planner.estimate(form, quick) == pytest.approx(4 * (4 * 16 + pixels * (4 + 16)) / 8e9)
    assert planner.estimate(form, COSTS, images=3) == pytest.approx(3 * arithmetic)


def test_moving_costs_more_where_the_array_is_larger() -> None:
    assert [COSTS.moving(size) * 1e9 / size for size in (1e6, 1e7, 1e8)] == pytest.approx([1 / 8, 1 / 4, 1])


def test_fusing_spares_the_traffic_between(block: match.Block) -> None:
    quick = planner.Costs(1e15, (planner.Level(100, 8e9), planner.Level(float("inf"), 1e9)))
    fused, pair, apart = (planner.estimate(form, quick) for form in planner.forms(block))
    assert fused < pair < apart
    choice = planner.choose(block, quick)
    assert choice.form == (block,)
    assert choice.why.startswith("estimated pointwise + depthwise + pointwise 0.0")
    assert choice.why.count(" ms") == 3


def test_another_form_must_be_clearly_better(block: match.Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for second, chosen in ((0.95, 1), (0.8, 2)):
        taken = iter([1.0, second, 2.0])
        monkeypatch.setattr(planner, "estimate", lambda *_, taken=taken: next(taken))
        assert len(planner.choose(block, COSTS).form) == chosen


def test_this_machine_is_measured() -> None:
    costs = planner.costs()
    assert costs.multiplications > 1e8 and all(level.bandwidth > 1e7 for level in costs.levels)
    assert [level.size for level in costs.levels] == sorted(level.size for level in costs.levels)
    assert planner.costs() is costs


def test_the_choice_and_its_estimate_stand_in_the_summary() -> None:
    x = torch.randn(1, 8, 12, 12)
    fast = ninefold.for_inference(inverted(8, 24), x)
    (layer,) = fast.layers
    assert layer.how == "fused" and layer.choice.startswith("estimated pointwise + depthwise + pointwise ")
    assert layer.choice in fast.summary()


def test_what_the_planner_takes_apart_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = inverted(8, 24).eval(), torch.randn(3, 8, 12, 12)
    for wanted in range(3):

        def choose(block: match.Block, *_: object, wanted: int = wanted) -> planner.Choice:
            return planner.Choice(planner.forms(block)[wanted], "so")

        monkeypatch.setattr(planner, "choose", choose)
        fast = ninefold.for_inference(model, x)
        assert len(fast.layers) == wanted + 1
        assert [layer.choice for layer in fast.layers] == ["so"] + [""] * wanted
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
