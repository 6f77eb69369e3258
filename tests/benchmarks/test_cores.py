from __future__ import annotations

import os
import threading
from importlib import import_module
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound here")


@pytest.fixture
def cores() -> ModuleType:
    return import_module("cores")


@pytest.fixture
def allowed() -> object:
    """The cores of this thread, and of those it starts, as they were."""
    before = os.sched_getaffinity(0)
    yield before
    os.sched_setaffinity(0, before)


def test_the_busiest_thread_gets_a_core_of_its_own(cores: ModuleType, allowed: set[int]) -> None:
    asked, done = threading.Semaphore(0), threading.Semaphore(0)
    worker: list[int] = []

    def work() -> None:
        worker.append(threading.get_native_id())
        while True:
            asked.acquire()
            if len(worker) > 1:
                return
            sum(range(1_000_000))
            done.release()

    thread = threading.Thread(target=work)
    thread.start()

    def run() -> None:
        asked.release()
        done.acquire()

    try:
        cores.spread(run, 1)
        assert os.sched_getaffinity(worker[0]) == {min(allowed)}
        assert os.sched_getaffinity(0) == allowed
    finally:
        worker.append(0)
        asked.release()
        thread.join()


def test_more_threads_than_cores_stay_free(cores: ModuleType, allowed: set[int]) -> None:
    cores.spread(lambda: pytest.fail("there was nothing to find out"), len(allowed) + 1)
    assert os.sched_getaffinity(0) == allowed
