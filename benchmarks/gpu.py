"""Build, check and time Ninefold's GPU kernels in one run of less than eight minutes.

    python benchmarks/gpu.py                 everything; writes benchmarks/results/gpu.json and gpu.md
    python benchmarks/gpu.py --results OUT   writes them there
    python benchmarks/gpu.py --only training --results OUT     what a first run had no time for

Needs an NVIDIA GPU, PyTorch and Triton; not the compiled CPU kernels, nor that Ninefold is installed. Each
part is a process of its own with a limit, so what fails or takes too long costs its own figures and no other;
results are printed as they come. First several processes compile all kernels at once, into Triton's cache,
while the tests run; then everything is timed with the GPU to itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_SOURCES = ROOT / "src"
sys.path.insert(0, str(_SOURCES))

# Seconds of the whole, as shares: what each part may have used up when it ends.
_WARM_UNTIL, _LAYERS_UNTIL, _TRAINING_UNTIL = 0.34, 0.56, 0.93
# How long a way of training takes to start, against the others: ours measures, torch.compile compiles.
_STARTS = {"ninefold_graphs": 3, "ninefold": 1, "torch_compile": 2, "eager_nhwc": 1, "eager_nchw": 1}
MARK = "@ "
PARTS = ("tests", "layers", "training", "max-autotune")


@dataclass
class Job:
    """A part in a process of its own."""

    name: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)


def start(name: str, *arguments: str, command: list[str] | None = None) -> Job:
    """Start a part; by default this file with other arguments."""
    # This checkout's own code, installed or not.
    paths = [str(HERE), str(_SOURCES), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    given = command or [sys.executable, str(Path(__file__).resolve()), *arguments]
    process = subprocess.Popen(
        given,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    return Job(name, process)


def follow(jobs: list[Job], until: float, *, quiet: bool = False) -> Iterator[dict[str, Any]]:
    """Print what the jobs say and yield what they found, until all have ended or the clock says `until`."""
    import selectors

    chooser = selectors.DefaultSelector()
    for job in jobs:
        assert job.process.stdout is not None
        os.set_blocking(job.process.stdout.fileno(), False)
        chooser.register(job.process.stdout, selectors.EVENT_READ, job)
    rests = {job.name: "" for job in jobs}
    while chooser.get_map() and time.time() < until:
        for key, _ in chooser.select(timeout=0.5):
            job = key.data
            text = os.read(key.fd, 65536).decode(errors="replace")
            if not text:
                chooser.unregister(key.fileobj)
                job.process.wait()
                continue
            *lines, rests[job.name] = (rests[job.name] + text).split("\n")
            for line in lines:
                if line.startswith(MARK):
                    yield json.loads(line.removeprefix(MARK))
                    continue
                job.lines.append(line)
                if not quiet and line.strip():
                    print(f"  [{job.name}] {line}", flush=True)
    for job in jobs:
        if job.process.poll() is None:
            print(f"  [{job.name}] stopped: its time is up", flush=True)
            # The part and what it started: a process group of its own.
            with suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()
        elif job.process.returncode != 0:
            print(
                f"  [{job.name}] ended with {job.process.returncode}",
                *job.lines[-12:],
                sep="\n    ",
                flush=True,
            )


def main() -> int:
    """Run a part, or all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=455, help="for everything (default: 455)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="the folder to write to")
    parser.add_argument("--batch", type=int, default=128, help="images of a layer (default: 128)")
    parser.add_argument("--training-batch", type=int, default=256, help="images of a step (default: 256)")
    parser.add_argument("--compiling", type=int, help="processes that compile (default: by the processors)")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="these parts, and what they have compiled"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the page")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    parser.add_argument("--network", default="", help=argparse.SUPPRESS)
    parser.add_argument("--known", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    import gpu_parts

    if given.part:
        gpu_parts.run(given)
        return 0
    if not given.json:
        return everything(given)
    with contextlib.redirect_stdout(sys.stderr):
        status = everything(given)
    if status == 0:
        print((given.results / "gpu.json").read_text(encoding="utf-8"), end="")
    return status


def everything(given: argparse.Namespace) -> int:
    """All parts in their order; returns the exit status."""
    import gpu_tables

    began = time.time()

    def share(part: float) -> float:
        return began + part * given.seconds

    found: dict[str, Any] = {"layers": [], "training": [], "notes": []}

    def take(results: Iterator[dict[str, Any]]) -> None:
        for result in results:
            kind = result.pop("kind")
            if kind in ("layers", "training"):
                found[kind].append(result)
                print(gpu_tables.line(kind, result, found.get("limits", {})), flush=True)
            else:
                found[kind] = result
            gpu_tables.write(found, given.results)

    print("the machine", flush=True)
    take(follow([start("machine", "--part", "machine")], share(0.1)))
    if "machine" not in found:
        print("no GPU that PyTorch and Triton can use: nothing was measured", file=sys.stderr)
        return 1
    print(gpu_tables.machine(found), flush=True)

    print(f"compiling and testing ({time.time() - began:.0f} s)", flush=True)
    processors = len(os.sched_getaffinity(0))
    workers = max(2, processors * 2 // 3) if given.compiling is None else given.compiling
    end = share(_WARM_UNTIL)
    jobs = []
    if {"layers", "training"} & set(given.only):
        only = ["--only", *given.only]
        jobs += [
            start(f"compile {k}", "--part", "warm", "--way", f"{k}/{workers}", "--until", str(end), *only)
            for k in range(workers)
        ]
    from gpu_cases import NETWORKS

    if "training" in given.only:
        jobs += [
            start(f"torch.compile {name}", "--part", "warm-compile", "--network", name, *_sizes(given))
            for name in NETWORKS
        ]
    tests = [_tests(max(2, processors // 2))] if "tests" in given.only else []
    take(follow([*jobs, *tests], end, quiet=True))
    for job in tests:
        found["tests"] = _how_they_went(job)
    found["compiled"] = {"result": [_last(job) for job in jobs]}
    for job in jobs:
        print(f"  {job.name}: {_last(job)}", flush=True)

    if "layers" in given.only:
        print(f"layers ({time.time() - began:.0f} s)", flush=True)
        end = share(_LAYERS_UNTIL)
        take(follow([start("layers", "--part", "layers", "--until", str(end - 3), *_sizes(given))], end))
    if "training" in given.only:
        print(f"training ({time.time() - began:.0f} s)", flush=True)
    from gpu_training import WAYS

    order = [(name, way) for name in NETWORKS for way in WAYS] if "training" in given.only else []
    for place, (name, way) in enumerate(order):
        # What is left is shared among those to come; whoever needs less leaves it to the rest.
        left = share(_TRAINING_UNTIL) - time.time()
        if left < 12:
            found["notes"].append(f"No time was left for {name} by {way}.")
            continue
        portion = _STARTS[way] / sum(_STARTS[other] for _, other in order[place:])
        end = min(time.time() + max(30, 1.6 * left * portion), share(0.985))
        arguments = ["--part", "training", "--network", name, "--way", way, "--until", str(end - 2)]
        # What float32 and PyTorch's autocast do, which the first to train this network has found out.
        known = next((row for row in found["training"] if row["network"] == name), None)
        if known:
            arguments += ["--known", f"{known['fall']},{known['autocast_distance']}"]
        take(follow([start(f"{name} {way}", *arguments, *_sizes(given))], end))
    if "max-autotune" in given.only and (left := share(0.985) - time.time()) > 25:
        print(f"against torch.compile's max-autotune ({time.time() - began:.0f} s)", flush=True)
        end = time.time() + left
        take(follow([start("max-autotune", "--part", "compiled", "--until", str(end), *_sizes(given))], end))
    found["seconds"] = round(time.time() - began)
    written = gpu_tables.write(found, given.results)
    print("\n" + written, flush=True)
    return 0


def _sizes(given: argparse.Namespace) -> list[str]:
    return ["--batch", str(given.batch), "--training-batch", str(given.training_batch)]


def _tests(workers: int) -> Job:
    parallel = ["-n", str(workers)] if importlib.util.find_spec("xdist") else []
    options = ["-v", "-p", "no:cacheprovider", *parallel]
    return start("tests", command=[sys.executable, "-m", "pytest", *options, str(ROOT / "tests" / "gpu")])


def _how_they_went(tests: Job) -> dict[str, Any]:
    passed, failed = (_said(tests, *words) for words in (("PASSED",), ("FAILED", "ERROR")))
    result = _last(tests)
    if tests.process.returncode < 0:
        # Stopped: each test said how it went, so that those that failed have names.
        result = f"stopped after {len(passed)} passed and {len(failed)} failed"
    print(f"  tests/gpu: {result}", *failed, sep="\n    ", flush=True)
    return {"command": "pytest tests/gpu", "result": result, "failed": failed}


def _said(tests: Job, *words: str) -> list[str]:
    """The tests of which pytest said one of these words, in no order."""
    told = (line.split() for line in tests.lines if "::" in line)
    return sorted(
        {next(part for part in parts if "::" in part) for parts in told if any(w in parts for w in words)}
    )


def _last(job: Job) -> str:
    said = [line for line in job.lines if line.strip()]
    ended = "" if job.process.returncode == 0 else f" (ended with {job.process.returncode})"
    return (said[-1].strip("= ") if said else "said nothing") + ended


if __name__ == "__main__":
    sys.exit(main())
