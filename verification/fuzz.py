"""`make fuzz`: bytes that nobody wrote, into every loader, guided by what they reach (atheris, libFuzzer).

What must hold: a loader returns, or raises one of `loaders.ALLOWED` with one line of words; it never ends
the process, never hangs, and never asks for memory that its file has no numbers for. Each loader runs in
processes of its own, under a limit on their memory; what one finds stays in build/fuzz and the next goes on.

The corpus (verification/corpus) is what earlier runs found that reaches something of its own; `make test`
replays it. `--keep` adds what this run found, at most so many files a loader.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
WORK = HERE.parent / "build" / "fuzz"
NAMES = (
    *("onnx", "exported", "pickled", "safetensors", "converted"),
    *("checkpoint", "metrics", "idx", "picture", "tuned"),
)
_ROOM = 2 << 30  # bytes beside what the process has when it begins
_WORDS = 1000  # characters of a message, the file's own name in it
_HANGS = 60  # seconds for one input, on a machine that does other things too
_FINDINGS = 5  # after so many, give up on a loader
_KEPT, _LONGEST = 32, 8192  # files of one loader in the corpus, bytes of one
_REACHED = (
    "ninefold.models",
    "ninefold.conversion",
    "ninefold.datasets",
    "ninefold.trainer",
    "ninefold.limits",
)
_REACHED += ("ninefold.photos", "ninefold.inference.remember", "onnx2torch", "zipfile", "PIL")


def main() -> int:
    """Fuzz, replay or keep; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of all loaders together")
    parser.add_argument("--loader", action="append", choices=NAMES)
    parser.add_argument("--replay", action="store_true", help="run the corpus alone, once")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    parser.add_argument("--write", action="store_true", help="the counts into results.json")
    parser.add_argument("--input", type=Path, help="this file alone, into one loader")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.loader or list(NAMES)
    if options.child is not None:
        return _fuzz(names[0], options.child)
    if options.input:
        _limit()
        _once(names[0], options.input.read_bytes())
        print("held")
        return 0
    if options.replay:
        return _replay(names)
    began, runs, findings = time.monotonic(), 0, 0
    for place, name in enumerate(names):
        left = (options.seconds - (time.monotonic() - began)) / (len(names) - place)
        done, found = _watch(name, max(left, 1.0))
        runs, findings = runs + done, findings + found
        if options.keep:
            _keep(name)
    seconds = round(time.monotonic() - began)
    print(f"{runs:,} inputs to {len(names)} loaders in {seconds} s, {findings} findings")
    if options.write:
        import record

        counted = {
            "inputs": runs,
            "loaders": len(names),
            "seconds": seconds,
            "files in the corpus": _count(names),
        }
        record.keep("commands", {"make fuzz": {"counted": counted, "failed": findings}})
    return 1 if findings else 0


def _watch(name: str, seconds: float) -> tuple[int, int]:
    """Fuzz one loader for so long; how many inputs it took, and how many of them were findings."""
    folders = _prepared(name)
    ends, runs, findings = time.monotonic() + seconds, 0, 0
    while (left := ends - time.monotonic()) > 0 and findings < _FINDINGS:
        options = [
            *(f"-max_total_time={max(int(left), 1)}", f"-timeout={_HANGS}", "-print_final_stats=1"),
            *("-rss_limit_mb=0", f"-artifact_prefix={WORK / name}/finding-", "-len_control=20"),
            *("-max_len=65536", *map(str, folders)),
        ]
        command = [sys.executable, __file__, "--loader", name, "--child", *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        counted = re.findall(r"number_of_executed_units: (\d+)|^#(\d+)", done.stderr, re.MULTILINE)
        runs += int(max(counted[-1])) if counted else 0
        if done.returncode == 0:
            break
        findings += 1
        written = re.findall(r"Test unit written to (\S+)", done.stderr)
        last = [
            line
            for line in done.stderr.splitlines()
            if re.match(r"\w*(\.\w+)*(Error|Exception)|.*ERROR:", line)
        ]
        print(f"FOUND {name}: {(last or ['the process ended'])[0][:300]}", flush=True)
        if written:
            print(f"  python verification/fuzz.py --loader {name} --input {written[-1]}", flush=True)
        else:
            print(done.stderr[-2000:], flush=True)
    print(f"{name:12} {runs:9,} inputs, {findings} findings", flush=True)
    return runs, findings


def _prepared(name: str) -> list[Path]:
    """Folders of inputs: what runs found here, the corpus, and fresh seeds."""
    import loaders

    found, corpus, seeds = WORK / name / "found", CORPUS / name, WORK / name / "seeds"
    shutil.rmtree(seeds, ignore_errors=True)
    for folder in (found, corpus, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        for place, content in enumerate(loaders.LOADERS[name].seeds(Path(made))):
            (seeds / str(place)).write_bytes(content)
    return [found, corpus, seeds]


def _fuzz(name: str, options: list[str]) -> int:
    import atheris

    with atheris.instrument_imports(include=list(_REACHED)):
        import loaders  # noqa: F401
    _limit()
    atheris.Setup([sys.argv[0], *options], lambda data: _once(name, data))
    atheris.Fuzz()
    return 0


def _once(name: str, data: bytes) -> None:
    import loaders

    # In memory, where there is such a place: a file is written for every input.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        try:
            loaders.LOADERS[name].feed(data, Path(folder))
        except loaders.ALLOWED as error:
            words = str(error).replace(folder, "")
            assert words and "\n" not in words and len(words) < _WORDS, f"these words: {words!r}"
            asked = re.search(r"MemoryError|allocate|out of memory", words)
            assert not asked, f"it asked for memory: {words!r}"


def _limit() -> None:
    """Leave so much memory: who asks for more gets an error, and `_once` sees that."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + _ROOM, now + _ROOM))


def _replay(names: list[str]) -> int:
    """Run the corpus and the seeds; the first that does not hold ends it."""
    import loaders

    _limit()
    count = 0
    for name in names:
        with tempfile.TemporaryDirectory() as made:
            inputs = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
            inputs += loaders.LOADERS[name].seeds(Path(made))
        for content in inputs:
            _once(name, content)
            count += 1
    print(f"{count} inputs to {len(names)} loaders held")
    return 0


def _keep(name: str) -> None:
    """Add to the corpus what was found: the newest, which reach furthest, and the smallest."""
    found = [path for path in (WORK / name / "found").iterdir() if path.stat().st_size <= _LONGEST]
    newest = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    smallest = sorted(found, key=lambda path: path.stat().st_size)
    room = max(0, _KEPT - len(list((CORPUS / name).glob("*"))))
    for path in list(dict.fromkeys([*newest[: room // 2], *smallest]))[:room]:
        content = path.read_bytes()
        (CORPUS / name / hashlib.sha1(content).hexdigest()[:16]).write_bytes(content)


def _count(names: list[str]) -> int:
    return sum(1 for name in names for _ in (CORPUS / name).glob("*"))


if __name__ == "__main__":
    sys.exit(main())
