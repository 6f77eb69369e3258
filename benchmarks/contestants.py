"""Libraries in processes of their own, which run when they are told to.

In one process their thread pools would spin while another's turn is timed. In a turn a library warms up, then
runs as many times under the clock as a network that is called again and again does.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import cores
from cases import Case, silence
from libraries import LIBRARIES, array
from ninefold import __version__

# What follows a call in another process, a spinning thread pool, is over by then.
_PAUSE = 0.03
# Calls and seconds before the clock starts; fewer calls where they take longer. After the others' turns a
# network of 3.9 ms took 4.5, 4.1, 4.0 and 4.0 ms before the caches held its weights again.
_WARM_CALLS, _WARM_SECONDS = 4, 0.02


@dataclass(frozen=True)
class Failed:
    """Why a library could not run a case."""

    reason: str


class Contestant:
    """A library in its process. Its first answer is fetched with `answer`, so that many can start at once."""

    def __init__(self, name: str, case: Case, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, name, case, threads)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def answer(self) -> np.ndarray | Failed:
        """What it computes, or why it does not."""
        answer: np.ndarray | Failed = self._receive()
        return answer

    def turn(self, calls: int) -> list[float]:
        """Seconds of each of `calls` calls."""
        time.sleep(_PAUSE)
        self._pipe.send(calls)
        seconds: list[float] = self._receive()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return Failed(f"its process ended with status {self._process.exitcode}")


def versions(names: list[str]) -> dict[str, str]:
    """The version of each library's package."""
    packages = {name: LIBRARIES[name].package for name in names}
    return {
        name: __version__ if package == "ninefold" else version(package) for name, package in packages.items()
    }


def _serve(pipe: Connection, name: str, case: Case, threads: int) -> None:
    from ninefold import measure

    measure.keep_memory()
    silence(case.folder / f"{name}.log")
    try:
        run = LIBRARIES[name].prepare(case, threads)
        answer = array(run())
        cores.spread(run, threads)
        pipe.send(answer)
    except Exception as error:
        lines = str(error).strip().splitlines()
        pipe.send(Failed(f"{type(error).__name__}: {lines[0] if lines else ''}"))
        return
    while True:
        try:
            calls = pipe.recv()
        except EOFError:
            return
        _warm_up(run)
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        pipe.send(seconds)


def _warm_up(run: Callable[[], object]) -> None:
    start = time.perf_counter()
    for _ in range(_WARM_CALLS):
        run()
        if time.perf_counter() - start > _WARM_SECONDS:
            return
