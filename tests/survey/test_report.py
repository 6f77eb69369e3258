from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import ninefold
from ninefold import census, cost
from ninefold.survey import network


def test_everything_is_in_the_report(small, x, tmp_path):
    report = ninefold.report(small, x, name="small", threads=1, seconds=0.1)
    assert [(row.name, row.kind) for row in report.rows] == [
        ("stem", "standard"),
        ("pair.0", "depthwise"),
        ("pair.3", "pointwise"),
        ("up", "transposed"),
        ("head", "linear"),
    ]
    stem, pair = cost.standard(3, 16, 3, 16), cost.separable(16, 32, 3, 16)
    up = cost.convolution(32, 8, (2, 2), (32, 32), transposed_from=(16, 16))
    assert report.multiplications == sum(each.multiplications for each in (stem, pair, up)) + 40
    assert report.weights == stem.parameters + pair.parameters + up.parameters + 40
    assert report.parameters == sum(weight.numel() for weight in small.parameters())
    assert all(row.seconds > 0 and row.limit.seconds > 0 for row in report.rows)
    how = {block.names: block.how for block in report.blocks}
    assert how[("pair.0", "pair.3")] == "fused" and how[("stem",)] == "packed" and how[("up",)] == "PyTorch"
    assert all(block.seconds for block in report.blocks if block.how != "PyTorch")
    assert [block.names for block in report.unfused] == [("up",)]
    (saved,) = report.saved
    assert saved.ratio == cost.compare(16, 32, 3, 16).ratio and saved.measured_factor > 0
    assert [swap.name for swap in report.could_save] == ["stem"]
    before = report.multiplications + saved.saved
    assert report.other_way == (before, report.weights + 16 * 32 * 9 - 16 * (9 + 32))
    assert report.plain.startswith("PyTorch") and report.ninefold.name == "Ninefold"
    assert report.difference < 1e-5
    # Each operator is in one share, and no time is counted twice.
    assert sum(share.multiplications for share in report.shares) == report.multiplications
    assert sum(share.seconds for share in report.shares) >= sum(row.seconds for row in report.rows)
    assert json.loads(report.save(tmp_path / "it.json").read_text())["totals"]["weights"] == report.weights


def test_the_model_is_left_as_it_was(small, x):
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    ninefold.report(small, x, threads=1, seconds=0.1)
    assert small.training
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 2, 3)), (2, 4, 20)),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 1)), (1, 2, 6, 6, 6)),
    ],
    ids=["1-d", "3-d"],
)
def test_other_dimensions_are_counted_and_timed(model, shape):
    report = ninefold.report(model, torch.randn(shape), threads=1, seconds=0.1)
    assert len(report.rows) == 2 and all(row.seconds > 0 for row in report.rows)
    assert report.swaps == () and "Nothing to replace" in str(report)
    assert report.page


def test_two_inputs_and_a_weight_used_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.both(a) + self.both(b)

    report = ninefold.report(Twice(), (torch.randn(1, 3, 12, 12), torch.randn(1, 3, 12, 12)), seconds=0.1)
    assert [row.name for row in report.rows] == ["both", "both"]
    assert report.weights == 3 * 6 * 9 and report.inputs == ((1, 3, 12, 12), (1, 3, 12, 12))
    assert [row.block for row in report.rows] == [0, 1]
    # Made separable, the one weight is replaced once.
    assert report.other_way[1] == 3 * (9 + 6)


def test_what_cannot_be_reported_on_is_one_clear_error(x):
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module, got str"):
        ninefold.report("resnet50", x)
    with pytest.raises(ValueError, match="`model` must have a convolution, got Linear, which calls none"):
        ninefold.report(nn.Linear(32, 4), x)

    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    with pytest.raises(
        ValueError, match=r"torch\.export can capture, got Undecided: .*could not be captured"
    ):
        ninefold.report(Undecided(), x)


def test_the_operators_are_timed_one_by_one(small, x):
    from ninefold.survey import clock

    taken = clock.operators(small, (x,), seconds=0.05, progress=lambda share: None)
    assert len(taken) == len(census.take(small, (x,)).operators) and all(each > 0 for each in taken)


def test_a_network_that_changes_its_mind_is_refused(x):
    from ninefold.survey import clock

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x.relu() if self.calls % 2 else x.relu().exp()

    with pytest.raises(ValueError, match="`model` must call the same operators at each run, got"):
        clock.operators(Moody(), (x,), seconds=0.01, progress=lambda share: None)


def test_candidates_keep_stride_padding_dilation_and_multiplier(machine):
    from ninefold.survey import swap

    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(16, 32, 5, groups=16, padding=(1, 2)),
        nn.Conv2d(32, 8, 1),
        nn.Conv2d(8, 1, 1),
    )
    found = swap.candidates(census.take(model, (torch.randn(2, 8, 20, 24),)))
    assert [(each.name, each.built) for each in found] == [("0", "standard"), ("1 + 2", "separable")]
    assert found[0].depthwise.dilation == (2, 2) and found[0].depthwise.stride == (2, 2)
    assert found[0].pointwise.input_size == found[0].standard.output_size
    assert found[1].standard.out_channels == 8 and found[1].depthwise.multiplier == 2
    told = swap.measured(found, machine, seconds=0.05, progress=lambda share: None)
    assert [each.saved for each in told] == sorted((each.saved for each in told), reverse=True)
    for each in told:
        assert (
            min(each.ninefold.standard, each.ninefold.separable, each.pytorch.separable, each.predicted) > 0
        )
        assert each.standard_multiplications % 2 == 0  # two images


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_a_network_of_another_dtype_is_compared_and_said_to_be_pytorchs(dtype, x):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)).to(dtype)
    it = ninefold.report(model, x.to(dtype), seconds=0.1)
    assert it.difference == 0
    # PyTorch takes a complex convolution apart into three real ones.
    assert it.multiplications == (30 * 30 * 8 * 27 + 28 * 28 * 8 * 9) * (3 if dtype.is_complex else 1)
    said = f"its input is {str(dtype).removeprefix('torch.')}"
    assert [(block.how, said in block.why) for block in it.blocks] == [("PyTorch", True)] * 2


@pytest.mark.parametrize(
    ("plain", "fast", "share"),
    [
        (torch.tensor([0.0, 4.0]), torch.tensor([0.0, 3.0]), 0.25),
        (torch.tensor([2.0]), torch.tensor([1.0]), 0.5),
        (torch.tensor([0j, 4j]), torch.tensor([0j, 3j]), 0.25),
        (torch.tensor([1, 5]), torch.tensor([1, 4]), 0.25),
        (torch.tensor([False, True]), torch.tensor([True, True]), 1.0),
        (torch.tensor([-6e4, 6e4]).half(), torch.tensor([6e4, 6e4]).half(), 1.0),
        (torch.tensor([math.inf, math.nan, 1.0]), torch.tensor([math.inf, math.nan, 1.0]), 0.0),
        (torch.tensor([math.inf, 1.0]), torch.tensor([2.0, 1.0]), math.inf),
        (torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 2.0]), math.nan),
        (torch.empty(0), torch.empty(0), 0.0),
    ],
)
def test_answers_of_every_dtype_are_compared(plain, fast, share):
    for answers in ((plain, fast), ({"a": torch.zeros(2), "b": plain}, {"a": torch.zeros(2), "b": fast})):
        assert network._difference(*answers) == pytest.approx(share, nan_ok=True)
