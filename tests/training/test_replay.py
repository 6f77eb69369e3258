"""Steps replayed as CUDA graphs, without a GPU: a tape of operators for a graph (tests/gpu has real ones)."""

from __future__ import annotations

import copy
import gc
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ninefold.training import replay
from ninefold.training.replay import Replayed


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on the CPU: notes every operator and its tensors, and does them again in place.

    While a GPU records nothing is computed, so what is written in place meanwhile is put back.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.before = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for argument, given in zip(func._schema.arguments, args, strict=False):
            # Batch-norm writes its running statistics, and its schema does not say so.
            unsaid = func is torch.ops.aten.native_batch_norm.default and argument.name.startswith("running")
            if unsaid or (argument.alias_info is not None and argument.alias_info.is_write):
                self.before.append((given, given.clone()))
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out

    def put_back(self):
        for tensor, value in reversed(self.before):
            tensor.data.copy_(value)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _tensors(out):
    return [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]


@pytest.fixture
def recorded(monkeypatch):
    """How many graphs were recorded, tapes standing for them."""
    graphs = []

    @contextmanager
    def record(graph, pool):
        graphs.append(graph)
        with graph:
            yield
        with torch.no_grad():
            graph.put_back()

    monkeypatch.setattr(replay, "_recorded", record)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return graphs


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 36, 5))


def called(model):
    """The model as Dynamo gives it to a backend: a function of images, weights and running statistics."""
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]

    def run(x, *tensors):
        out = torch.func.functional_call(model, dict(zip(names, tensors, strict=True)), (x,))
        return out, out.detach().argmax(1)

    tensors = [*model.parameters(), *model.buffers()]
    replayed = Replayed(run)
    return lambda x: replayed(x, *tensors)


def steps(model, run, images, optimiser=None):
    """Losses of a step on each batch."""
    optimiser = optimiser or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for x in images:
        optimiser.zero_grad()
        out, _ = run(x)
        loss = F.cross_entropy(out, torch.arange(len(x)) % 5)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def plainly(model):
    return lambda x: (lambda out: (out, out.detach().argmax(1)))(model(x))


def test_replayed_steps_learn_what_plain_steps_do(recorded) -> None:
    model, images = network(), [torch.randn(4, 3, 6, 6) for _ in range(7)]
    other = copy.deepcopy(model)
    assert steps(model, called(model), images) == steps(other, plainly(other), images)
    assert len(recorded) == 2  # one forward, one backward pass, from the third call on
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_gradients_accumulate(recorded) -> None:
    model, images = network(), [torch.randn(4, 3, 6, 6) for _ in range(6)]
    other = copy.deepcopy(model)
    for one, run in ((model, called(model)), (other, plainly(other))):
        for x in images:
            run(x)[0].square().sum().backward()
            for parameter in one.parameters():
                assert parameter.grad is not None
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert len(recorded) == 2


def test_results_and_gradients_are_the_callers_own(recorded) -> None:
    model = network().eval()
    run, images = called(model), [torch.randn(4, 3, 6, 6, requires_grad=True) for _ in range(5)]
    outs = [run(x)[0] for x in images[:2]]
    for x in images[2:]:
        outs.append(run(x)[0])
        outs[-1].sum().backward()
    assert len(recorded) == 2
    for x, out in zip(images, outs, strict=True):
        torch.testing.assert_close(out, model(x))
    kept = [x.grad.clone() for x in images[2:]]
    run(images[0])[0].sum().backward()
    assert all(torch.equal(x.grad, before) for x, before in zip(images[2:], kept, strict=True))


def test_a_second_forward_pass_waits_for_no_backward_pass(recorded) -> None:
    model, x = network().eval(), torch.randn(4, 3, 6, 6)
    run = called(model)
    for _ in range(3):
        run(x)[0].sum().backward()
    for parameter in model.parameters():
        parameter.grad = None
    first, second = run(x)[0], run(2 * x)[0]
    first.sum().backward()
    second.sum().backward()
    got = [parameter.grad.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    (model(x).sum() + model(2 * x).sum()).backward()
    for mine, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    # One that is dropped undifferentiated keeps nobody waiting.
    third = run(x)[0]
    del third
    gc.collect()
    assert type(run(x)[0].grad_fn).__name__ == "_StepBackward"


def test_differentiating_a_replayed_step_twice_says_so(recorded) -> None:
    model, x = network().eval(), torch.randn(4, 3, 6, 6)
    run = called(model)
    for _ in range(2):
        run(x)[0].sum().backward()
    loss = run(x)[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated a second time"):
        loss.backward()


def test_a_weight_that_moves_is_recorded_anew(recorded) -> None:
    model, images = network(), [torch.randn(4, 3, 6, 6) for _ in range(8)]
    other = copy.deepcopy(model)
    run, plain = called(model), plainly(other)
    assert steps(model, run, images[:4]) == steps(other, plain, images[:4])
    for one in (model, other):
        one[0].weight.data = one[0].weight.data * 0.5
    assert steps(model, run, images[4:]) == steps(other, plain, images[4:])
    assert len(recorded) == 4


@pytest.mark.parametrize("when", [1, 2, 4])
def test_a_running_statistic_that_moves_is_still_the_one_that_is_updated(recorded, when) -> None:
    """Before a recording, while what is written is looked for, and after one."""
    model, images = network(), [torch.randn(4, 3, 6, 6) for _ in range(12)]
    other = copy.deepcopy(model)
    tensors = lambda: [*model.parameters(), *model.buffers()]  # noqa: E731
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]

    def run(x, *given):
        out = torch.func.functional_call(model, dict(zip(names, given, strict=True)), (x,))
        return out, out.detach().argmax(1)

    replayed = Replayed(run)
    for number, x in enumerate(images):
        if number == when:
            for one in (model, other):
                one[1].running_mean = one[1].running_mean.clone() + 1
        assert steps(model, lambda x: replayed(x, *tensors()), [x]) == steps(other, plainly(other), [x])
        assert torch.equal(model[1].running_mean, other[1].running_mean), number
    assert len(recorded) == (4 if when == 4 else 2)  # the images move, so every recording is of both passes


def test_sizes_have_recordings_of_their_own_and_few_of_them(recorded) -> None:
    model = network().eval()
    run, images = called(model), []  # held, so that no address comes back
    for batch in range(2, 2 + replay._MOST + 2):
        for _ in range(4):
            images.append(torch.randn(batch, 3, 6, 6))
            out = run(images[-1])[0]
            assert out.shape == (batch, 5)
            out.sum().backward()
    assert len(recorded) == 2 * replay._MOST


def test_what_cannot_be_recorded_runs_as_ever(monkeypatch, caplog) -> None:
    def fails(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", fails)
    model, images = network(), [torch.randn(4, 3, 6, 6) for _ in range(6)]
    other = copy.deepcopy(model)
    assert steps(model, called(model), images) == steps(other, plainly(other), images)
    assert [record.getMessage() for record in caplog.records] == [
        "steps are not replayed: RuntimeError: operation not permitted when stream is capturing"
    ]


def test_without_gradients_nothing_is_recorded(recorded) -> None:
    run = called(network().eval())
    with torch.no_grad():
        for _ in range(5):
            run(torch.randn(4, 3, 6, 6))
    assert not recorded
