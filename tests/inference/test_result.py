"""The frozen network as an object: inputs, outputs, copies, threads, refusals, the check."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

import ninefold
from ninefold.inference import plan, result

X = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(2))


class Pyramid(nn.Module):
    """Two inputs and a switch in, a dict with a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.a = ninefold.nn.SeparableConv2d(8, 6, 3, padding=1)
        self.b = ninefold.nn.SeparableConv2d(8, 6, 3, padding=1, stride=2)

    def forward(self, images, double: bool):
        fine, coarse = self.a(images["one"]), self.b(images["two"])
        return {"maps": (fine * 2 if double else fine, coarse), "mean": fine.mean()}


def test_structured_inputs_and_outputs(freeze):
    images = {"one": X, "two": torch.randn(1, 8, 7, 5)}
    fast = freeze(Pyramid(), images, True)
    one = torch.ones(2, 8, 4, 4)
    assert not torch.equal(
        fast({"one": one, "two": one}, True)["maps"][0], fast({"one": one, "two": one}, False)["maps"][0]
    )


def test_the_default_dtype_is_nobodys_business(separable, request):
    model = nn.Sequential(separable(), separable(stride=2)).eval()
    wanted, before = model(X).detach(), ninefold.for_inference(model, X)
    request.getfixturevalue("doubles")
    for fast in (before, ninefold.for_inference(model, X)):
        for _ in range(3):
            torch.testing.assert_close(fast(X), wanted, rtol=1e-5, atol=1e-5)


def test_the_default_device_is_nobodys_business(separable, request):
    model = nn.Sequential(separable(), separable(stride=2)).eval()
    wanted, fast, other = model(X).detach(), ninefold.for_inference(model, X), X[:, :, 2:, 1:].contiguous()
    smaller = model(other).detach()
    fast(other)
    request.getfixturevalue("elsewhere")
    for _ in range(3):
        torch.testing.assert_close(fast(X), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fast(other), smaller, rtol=1e-5, atol=1e-5)


def test_other_sizes_are_captured_once_each(separable, monkeypatch):
    model = separable(stride=2).eval()
    captured = []
    real = result.capture
    monkeypatch.setattr(
        result, "capture", lambda *args, **options: captured.append(1) or real(*args, **options)
    )
    fast = ninefold.for_inference(model, X)
    for size in ((12, 12), (9, 14), (12, 12), (9, 14)):
        for batch in (1, 4):
            x = torch.randn(batch, 8, *size)
            torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)
    assert len(captured) == 2


def test_memory_formats_strides_and_an_empty_batch(separable):
    model = separable().eval()
    fast = ninefold.for_inference(model, X)
    wide = torch.randn(2, 16, 24, 12)
    for x in (wide[:, ::2, ::2], X.to(memory_format=torch.channels_last), X.expand(3, 8, 12, 12), X[:0]):
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was(separable):
    model = separable().train()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    before = copy.deepcopy(model.state_dict())
    fast = ninefold.for_inference(model, X)
    fast(X)
    assert model.training
    assert all(module.training for module in model.modules())
    assert not any(torch.is_inference(p) or not p.requires_grad for p in model.parameters())
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    assert seen == [] or model[0]._forward_hooks
    nn.init.zeros_(model[0].weight)
    assert fast(X).abs().sum() > 0


def test_no_gradients_come_out(separable):
    fast = ninefold.for_inference(separable(), X)
    assert not fast(X.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        want = fast(X)
    assert fast(X).equal(want)


def test_made_under_inference_mode(separable):
    model = separable().eval()
    with torch.inference_mode():
        fast = ninefold.for_inference(model, X.clone())
        torch.testing.assert_close(fast(X), model(X), rtol=1e-5, atol=1e-5)
    assert fast.shares["fused"] == 1


def test_autocast_does_not_reach_inside(separable):
    fast = ninefold.for_inference(separable(), X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(X).equal(fast(X).float())
        assert fast(X).dtype is torch.float32


def test_copies_and_pickles(separable):
    fast = ninefold.for_inference(separable(), X)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(other(X), fast(X))
        assert other.summary() == fast.summary()


def test_many_threads_capture_a_new_size_once(separable, monkeypatch):
    model = separable().eval()
    fast = ninefold.for_inference(model, X)
    captured, failures = [], []
    real = result.capture
    monkeypatch.setattr(
        result, "capture", lambda *args, **options: captured.append(1) or real(*args, **options)
    )

    def work(seed: int) -> None:
        x = torch.randn(1 + seed % 3, 8, 10, 9, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            if not torch.allclose(fast(x), model(x), atol=1e-4):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(captured), failures) == (1, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fast: fast.train(), "frozen and cannot train"),
        (lambda fast: fast.load_state_dict({}), "frozen and loads no weights"),
        (lambda fast: fast.half(), "frozen and cannot become float16 on cpu"),
        (lambda fast: fast.to("meta"), "frozen and cannot become float32 on meta"),
        (lambda fast: nn.Sequential(fast).double(), "frozen and cannot become float64 on cpu"),
    ],
    ids=["train", "load_state_dict", "half", "to", "inside another"],
)
def test_frozen_things_say_what_to_do(separable, change, words):
    fast = ninefold.for_inference(separable(), X)
    with pytest.raises(RuntimeError, match=f"{words}.*call `ninefold.for_inference` on it again"):
        change(fast)


def test_what_changes_nothing_is_allowed(separable):
    fast = ninefold.for_inference(separable(), X)
    assert fast.eval() is fast.train(False) is fast.to("cpu") is fast.float() is fast
    assert fast.to(memory_format=torch.channels_last) is fast
    assert list(fast.parameters()) == []


def test_the_summary_tells_each_layer_and_the_shares(separable):
    fast = ninefold.for_inference(nn.Sequential(separable(), nn.Flatten(), nn.Linear(8 * 144, 3)), X)
    text = fast.summary()
    assert "0.0 + 0.3  fused             19 584  depthwise 3×3" in text
    assert "2          pytorch            3 456  a linear layer" in text
    assert "multiplications: 85.0% in fused kernels, 0.0% in kernels of their own, 15.0% in PyTorch" in text
    assert "captured in" in text
    assert "85.0% in fused kernels" in repr(fast)


def _spoil(monkeypatch, name: str) -> None:
    from ninefold.inference import fold

    real = fold.weights

    def spoiled(module, stage):
        weight, bias = real(module, stage)
        return (weight * 1.01, bias) if stage.name == name else (weight, bias)

    monkeypatch.setattr(fold, "weights", spoiled)


def test_a_block_that_disagrees_is_left_and_named(separable, monkeypatch):
    model = nn.Sequential(separable(), separable(), nn.Conv2d(8, 4, 3)).eval()
    _spoil(monkeypatch, "1.3")
    fast = ninefold.for_inference(model, X)
    assert [(layer.name, layer.how) for layer in fast.layers] == [
        ("0.0 + 0.3", "fused"),
        ("1.0", "pytorch"),
        ("1.3", "pytorch"),
        ("2", "kernel"),
    ]
    assert fast.layers[1].why == "its kernel disagreed with PyTorch"
    torch.testing.assert_close(fast(X), model(X).detach(), rtol=1e-5, atol=1e-5)


def test_a_block_that_fails_is_left_and_named(separable, monkeypatch):
    from ninefold.ops import packed

    def broken(self, *operands):
        raise RuntimeError("broken")

    monkeypatch.setattr(packed.Separable, "forward", broken)
    monkeypatch.setattr(packed.Separable, "_pack", broken)
    model = nn.Sequential(separable(), nn.Conv2d(8, 4, 3)).eval()
    fast = ninefold.for_inference(model, X)
    assert [layer.how for layer in fast.layers] == ["pytorch", "pytorch", "kernel"]
    assert fast.layers[0].why == "its kernel raised RuntimeError: broken"
    torch.testing.assert_close(fast(X), model(X).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["raised KeyError: 'a step'", "disagreed with PyTorch"])
def test_blocks_that_fail_only_together_run_one_by_one_and_it_is_said(separable, monkeypatch, how):
    from ninefold.ops.sequence import Sequence

    run = Sequence.run

    def spoiled(self, operands):
        if "KeyError" in how:
            raise KeyError("a step")
        return tuple(value * 1.01 for value in run(self, operands))

    monkeypatch.setattr(Sequence, "run", spoiled)
    model = nn.Sequential(separable(), separable()).eval()
    said = f"neighbouring blocks run one by one: their one call {how}"
    with pytest.warns(RuntimeWarning, match=said):
        fast = ninefold.for_inference(model, X)
    assert {layer.how for layer in fast.layers} == {"fused"}
    assert said in fast.summary()
    torch.testing.assert_close(fast(X), model(X).detach(), rtol=1e-5, atol=1e-5)


class Cancelling(nn.Module):
    """Takes away again what its last bias adds, and digits with it: 5e-4 of the range, in PyTorch too."""

    def __init__(self, body):
        super().__init__()
        self.body, self.last = body, nn.Conv2d(8, 8, 1)
        nn.init.constant_(self.last.bias, 1e4)

    def forward(self, x):
        return self.last(self.body(x)) - 1e4


def test_where_rounding_decides_kernels_stay_and_it_is_said(separable):
    model = Cancelling(separable()).eval()
    with pytest.warns(RuntimeWarning, match="rounding decides: PyTorch is .* from float64"):
        fast = ninefold.for_inference(model, X)
    assert {layer.how for layer in fast.layers} <= {"fused", "kernel"}
    assert "rounding decides" in fast.summary()
    torch.testing.assert_close(fast(X), model(X).detach(), rtol=0, atol=5e-3)


@pytest.mark.filterwarnings("ignore:for_inference. rounding decides")
def test_rounding_excuses_no_wrong_block(separable, monkeypatch):
    model = Cancelling(separable()).eval()
    _spoil(monkeypatch, "body.3")
    fast = ninefold.for_inference(model, X)
    assert [layer.why for layer in fast.layers if layer.name == "body.3"] == [
        "its kernel disagreed with PyTorch"
    ]
    torch.testing.assert_close(fast(X), model(X).detach(), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(MemoryError, "std::bad_alloc"), (RuntimeError, "[enforce fail] can't allocate memory: you tried")],
)
@pytest.mark.parametrize("where", ["capture", "check", "block"])
def test_without_memory_nothing_is_decided(separable, monkeypatch, where, kind, words):
    """A network that was left to PyTorch for a moment's want of memory would stay there."""
    from ninefold.ops import packed
    from ninefold.ops.sequence import Sequence

    def broken(*_, **__):
        raise kind(words)

    model = nn.Sequential(separable(), nn.Conv2d(8, 4, 3)).eval()
    fast = ninefold.for_inference(model, X)
    other = torch.randn(1, 8, 9, 9)
    with monkeypatch.context() as exhausted:
        if where == "capture":
            exhausted.setattr(result, "capture", broken)
        elif where == "check":
            exhausted.setattr(Sequence, "run", broken)
        else:
            exhausted.setattr(Sequence, "run", lambda *_: ())
            exhausted.setattr(packed.Separable, "forward", broken)
        for call in (lambda: fast(other), lambda: ninefold.for_inference(model, X)):
            with pytest.raises(kind, match="alloc"):
                call()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        torch.testing.assert_close(fast(other), model(other).detach(), rtol=1e-5, atol=1e-5)
    assert not isinstance(fast.plan_for(other), str)


class EachImage(nn.Module):
    """A network that fixes its batch when it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return torch.stack([self.a(image[None])[0] for image in x])


class OneIsSpecial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.a(x) * 2 if x.shape[0] == 1 else self.a(x)


@pytest.mark.parametrize("kind", [EachImage, OneIsSpecial])
def test_a_network_that_fixes_its_batch_is_captured_for_each(freeze, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fast = freeze(kind(), X, batches=(2, 3))
    assert {layer.how for layer in fast.layers} == {"kernel"}


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else -self.a(x)


def test_a_network_that_cannot_be_captured_runs_in_pytorch():
    model = Deciding().eval()
    with pytest.warns(RuntimeWarning, match="whole network runs in PyTorch: it could not be captured"):
        fast = ninefold.for_inference(model, X)
    for x in (X, -X):
        torch.testing.assert_close(fast(x), model(x).detach())
    assert "could not be captured" in fast.summary()


def test_a_network_that_counts_its_calls_runs_in_pytorch():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(8, 4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return self.a(x) + self.calls

    model = Counting().eval()
    with pytest.warns(RuntimeWarning, match="does not compute what the model computes"):
        fast = ninefold.for_inference(model, X)
    assert model.calls == 0
    assert float((fast(X) - fast(X)).abs().mean()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((lambda x: x, X), "`model` must be a torch.nn.Module, got function"),
        ((nn.Conv2d(8, 4, 3), None), "`example_inputs` must be a tensor or a tuple of inputs, got NoneType"),
        ((nn.Conv2d(8, 4, 3), ()), "`example_inputs` must be a tensor or a tuple of inputs, got tuple"),
        ((nn.Conv2d(8, 4, 3), X, 1), "`tune` must be a bool, got 1"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(TypeError, match=words):
        ninefold.for_inference(*arguments)


def test_a_frozen_model_is_not_frozen_again(separable):
    fast = ninefold.for_inference(separable(), X)
    with pytest.raises(TypeError, match="`model` must be an original model"):
        ninefold.for_inference(fast, X)


def test_a_bad_input_raises_what_the_model_raises(separable):
    model = separable().eval()
    with pytest.raises(RuntimeError, match="expected input"):
        ninefold.for_inference(model, torch.zeros(1, 3, 12, 12))
    fast = ninefold.for_inference(model, X)
    with pytest.raises(RuntimeError, match="expected input"):
        fast(torch.zeros(1, 3, 12, 12))
    with pytest.raises(TypeError, match=r"inputs must be positional.*`x`"):
        fast(x=X)


def test_closeness_is_of_the_range():
    wanted = torch.tensor([0.0, 10.0, float("inf"), float("nan")])
    assert plan.close(wanted + torch.tensor([0.0009, 0, 0, 0]), wanted)
    assert not plan.close(wanted + torch.tensor([0.0011, 0, 0, 0]), wanted)
    assert not plan.close(torch.tensor([0.0, 10.0, float("inf"), 1.0]), wanted)
    assert not plan.close(wanted[:2], wanted)
    assert not plan.close(torch.tensor([0.0, float("nan")]), wanted[:2])


@pytest.mark.parametrize("flat", [False, True])
def test_a_shape_seen_before_goes_straight_into_the_extension(separable, isa, flat):
    model = nn.Sequential(
        separable(), separable(), *([nn.AdaptiveAvgPool2d(1), nn.Flatten()] if flat else [])
    ).eval()
    fast = ninefold.for_inference(model, X)
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    first, again = fast(x), fast(x)
    assert list(fast._short_cuts) == ([] if isa == "fallback" else [x.shape])
    assert torch.equal(first, again) and first.stride() == again.stride() and not again.requires_grad
    assert torch.equal(fast(x.detach().to(memory_format=torch.channels_last)), first)
    assert torch.equal(fast(x.detach().flip(3).flip(3)), first)
    with pytest.raises(RuntimeError, match="expected scalar type"):  # PyTorch's, as the model's own
        fast(x.detach().double())
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(twin(x), first)


@pytest.mark.parametrize("register", [nn.Module.register_forward_hook, None], ids=["its own", "everybody's"])
def test_hooks_are_called_where_a_shape_was_seen_before(separable, register):
    fast = ninefold.for_inference(separable().eval(), X)
    wanted, seen = fast(X), []

    def hook(module, inputs, output):
        if module is fast:
            seen.append(inputs[0])
            return -output
        return None

    handle = register(fast, hook) if register else nn.modules.module.register_module_forward_hook(hook)
    try:
        assert torch.equal(fast(X), -wanted)
    finally:
        handle.remove()
    assert seen[0] is X
    assert torch.equal(fast(X), wanted)


@pytest.mark.parametrize("make", [torch._neg_view, lambda x: torch._efficientzerotensor(x.shape)])
def test_images_that_only_say_what_their_numbers_are(separable, make):
    model = nn.Sequential(separable(), separable()).eval()
    fast = ninefold.for_inference(model, X)
    x = X.contiguous(memory_format=torch.channels_last)
    fast(x), fast(x)
    with torch.no_grad():
        wanted = model(make(x).clone())
        torch.testing.assert_close(fast(make(x)), wanted, rtol=1e-5, atol=1e-5)
