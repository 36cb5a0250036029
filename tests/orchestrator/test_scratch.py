"""Temporary folders vanish with their process, and never before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.scratch import Scratch, sweep_scratch

CHILD = """
import sys, time
from orchestrator.scratch import Scratch
made = Scratch("test")
(made.path / "file").write_text("x")
print(made.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_there_while_needed() -> None:
    with Scratch("test") as folder:
        (folder / "deep").mkdir()
        assert folder.is_dir()
    assert not folder.exists()


def test_a_sweep_takes_what_a_killed_process_left_and_nothing_of_a_living_one(temporary: Path) -> None:
    own = Scratch("test")
    (temporary / "hrgrid-scratch-file").write_text("no folder")
    (temporary / "somebody-else").mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert child.stdout is not None
    assert child.stdin is not None
    left = Path(child.stdout.readline().strip())
    assert sweep_scratch(older_than=0) == []
    child.kill()
    child.wait()
    child.stdout.close()
    child.stdin.close()
    assert sweep_scratch() == []  # too young
    assert sweep_scratch(older_than=0) == [left]
    assert not left.exists()
    assert own.path.is_dir()
    assert (temporary / "somebody-else").is_dir()
    own.close()
    assert not own.path.exists()


def test_what_is_left_on_purpose_can_be_swept_later() -> None:
    left = Scratch("test")
    left.leave()
    left.leave()
    assert left.path.is_dir()
    assert sweep_scratch(older_than=0) == [left.path]
