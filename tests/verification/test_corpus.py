"""What `make fuzz` kept, replayed: every loader returns, or says in one line what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")

FUZZ = Path(__file__).parents[2] / "verification" / "fuzz.py"


def test_the_corpus_holds() -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--replay"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.strip().splitlines()[-1].endswith("inputs to 10 loaders held")


def test_every_seed_but_the_broken_reaches_the_end_of_its_loader(tmp_path) -> None:
    """A seed that is refused at once would let nothing be found behind."""
    import loaders

    for name, loader in loaders.LOADERS.items():
        made = tmp_path / name
        made.mkdir()
        for place, seed in enumerate(loader.seeds(made)):
            folder = made / f"fed {place}"
            folder.mkdir()
            if (name, place) in {("safetensors", 1), ("onnx", 3)}:  # too few weights; data too short
                with pytest.raises(ValueError):
                    loader.feed(seed, folder)
            else:
                loader.feed(seed, folder)


def test_what_must_not_come_out_of_a_loader_is_a_finding(monkeypatch) -> None:
    import fuzz
    import loaders

    for error in (ValueError("two\nlines"), ValueError("MemoryError: "), ValueError(""), KeyError("x")):

        def feed(data, folder, error=error):
            raise error

        monkeypatch.setitem(loaders.LOADERS, "idx", loaders.Loader(feed, lambda folder: []))
        with pytest.raises((AssertionError, KeyError)):
            fuzz._once("idx", b"")


def test_members_come_back_from_their_bytes() -> None:
    import loaders

    members = {"a/b": b"one", "c": b"", "ü": bytes(300)}
    assert loaders.unpack(loaders.pack(members)) == list(members.items())
    assert loaders.as_members(loaders.archive(loaders.pack(members))) == loaders.pack(members)
