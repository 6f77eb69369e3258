"""What a server does to a model: workers, threads, changing thread counts, an end in the middle of a call."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import ninefold

_kernels = pytest.importorskip("ninefold._kernels", reason="the extension is not built")


class Separable(nn.Module):
    """Two separable stages, at module level so that a spawned process can import it."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stride in (1, 2):
            depthwise = nn.Conv2d(24, 24, 3, stride, 1, groups=24, bias=False)
            layers += [depthwise, nn.BatchNorm2d(24), nn.ReLU6(), nn.Conv2d(24, 24, 1), nn.SiLU()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


MODEL = f"""
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("processes", {__file__!r})
processes = importlib.util.module_from_spec(spec)
sys.modules["processes"] = processes
spec.loader.exec_module(processes)
import ninefold
torch.manual_seed(0)
x = torch.randn(2, 24, 20, 20)
fast = ninefold.for_inference(processes.Separable().eval(), x)
"""


def run(script: str, *, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MODEL + script], capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture
def fast() -> ninefold.inference.InferenceModel:
    torch.manual_seed(0)
    return ninefold.for_inference(Separable().eval(), torch.randn(2, 24, 20, 20))


def test_many_python_threads_call_one_model_at_sizes_of_their_own(fast) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(batch, 24, 20, 20) for batch in range(1, 9)]
    wanted = [fast(x) for x in inputs]
    wrong: list[int] = []
    start = threading.Barrier(8)

    def work(k: int) -> None:
        start.wait()
        for turn in range(25):
            index = (k + turn) % 8
            if not torch.equal(fast(inputs[index]), wanted[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_thread_count_may_change_between_calls_and_under_them(fast) -> None:
    x = torch.randn(3, 24, 20, 20)
    want = fast(x)
    before = torch.get_num_threads()
    stop = threading.Event()

    def churn() -> None:
        count = 0
        while not stop.is_set():
            torch.set_num_threads(1 + count % 5)
            count += 1

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for _ in range(60):
            torch.testing.assert_close(fast(x), want, rtol=1e-5, atol=1e-6)
        for threads in (1, 4, 2, 7, 1):
            torch.set_num_threads(threads)
            torch.testing.assert_close(fast(x), want, rtol=1e-5, atol=1e-6)
    finally:
        stop.set()
        worker.join()
        torch.set_num_threads(before)


def test_an_exception_in_one_thread_leaves_the_others_alone(fast) -> None:
    x = torch.randn(2, 24, 20, 20)
    want = fast(x)
    seen: list[str] = []

    def fail() -> None:
        for _ in range(40):
            try:
                _kernels.refuse(3)
            except RuntimeError as error:
                seen.append(str(error))

    worker = threading.Thread(target=fail)
    worker.start()
    good = [torch.equal(fast(x), want) for _ in range(40)]
    worker.join()
    assert all(good)
    assert len(seen) == 40
    assert all("a kernel refused its arguments (-4)" in message for message in seen)


def test_dataloader_workers_call_the_model_after_it_was_used() -> None:
    done = run(
        "torch.set_num_threads(2)\n"
        "wanted = fast(x)\n"
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, index): return fast(x[:1])[0]\n"
        "batches = list(torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=2))\n"
        "print(all(torch.allclose(row, wanted[0], atol=1e-6) for batch in batches for row in batch))\n"
    )
    assert done.stdout == "True\n", done.stderr[-2000:]


def test_a_spawned_process_unpickles_the_model_and_agrees(tmp_path) -> None:
    script = tmp_path / "spawned.py"
    script.write_text(
        MODEL + "import multiprocessing\n"
        "def work(model, x, answers): answers.put(model(x).numpy())\n"
        "if __name__ == '__main__':\n"
        "    wanted = fast(x)\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    answers = context.Queue()\n"
        "    child = context.Process(target=work, args=(fast, x, answers))\n"
        "    child.start()\n"
        "    print(torch.allclose(torch.from_numpy(answers.get(timeout=120)), wanted, atol=1e-6))\n"
        "    child.join()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "True\n", done.stderr[-2000:]


def test_a_pool_of_threads_is_finished_before_the_interpreter_ends() -> None:
    done = run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(4)\n"
        "for _ in range(40): pool.submit(fast, x)\n"
        "print('end', flush=True)\n"
    )
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr[-2000:]


def test_the_interpreter_ends_while_a_daemon_computes() -> None:
    done = run(
        "import threading\n"
        "torch.set_num_threads(2)\n"
        "def forever():\n"
        "    while True: fast(x)\n"
        "for _ in range(2): threading.Thread(target=forever, daemon=True).start()\n"
        "fast(x)\n"
        "print('end', flush=True)\n",
        timeout=120,
    )
    # CPython before 3.14 unwinds a daemon through C++, which ends in abort: PyTorch's own convolution does so
    # too. What must not be is a hang, or a fault in memory that is gone.
    assert done.stdout == "end\n"
    assert done.returncode in (0, -6), done.stderr[-2000:]


def test_gradients_of_a_strided_pointwise_layer_stay_in_their_memory() -> None:
    # PyTorch 2.13's own weight gradient ends this process: it writes past its memory.
    done = run(
        "torch.set_num_threads(5)\n"
        "x = torch.randint(-4, 5, (2, 2, 12, 12)).float().contiguous(memory_format=torch.channels_last)\n"
        "x.requires_grad_()\n"
        "w = torch.randint(-4, 5, (3, 2, 1, 1)).float().requires_grad_()\n"
        "b = torch.ones(3, requires_grad=True)\n"
        "padding, wanted = (1, 0, 2, 1), None\n"
        "padded = torch.nn.functional.pad(x.double(), padding)[:, :, ::2, ::3]\n"
        "truth = torch.einsum('nchw,oc->nohw', padded, w.double()[..., 0, 0]) + b.double()[:, None, None]\n"
        "g = torch.randint(-4, 5, truth.shape).float()\n"
        "wanted = torch.autograd.grad(truth, (x, w, b), g.double())\n"
        "for _ in range(200):\n"
        "    out = ninefold.ops.conv2d(x, w, b, stride=(2, 3), padding=padding)\n"
        "    got = torch.autograd.grad(out, (x, w, b), g)\n"
        "    assert all(torch.equal(*pair) for pair in zip(got, wanted))\n"
        "print('end')\n"
    )
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr[-2000:]
