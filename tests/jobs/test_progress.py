from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

import jobs._progress as module
from jobs._progress import progress

BAR = """
from jobs._progress import progress
with progress(False, "preparing") as report:
    for done in range(1, 4):
        report(done, 3, f"train {done}")
"""


def test_lines_in_a_pipe_say_rate_and_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 1.0, 6.0, 6.0, 11.0, 11.0, 11.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress(False, "preparing") as report:
        assert report is not None
        report(100, 1000, "train a")
        report(110, 1000, "train b")
        report(140, 1000, "train c")
    out = capsys.readouterr()
    # 40 images in 10 seconds: the 100 that an earlier run made do not count.
    assert out.err == "preparing: 140 of 1000, 4.0/s, 4 min left (train c)\n"
    assert out.out == ""
    with progress(True, "preparing") as nothing:
        assert nothing is None


def test_a_bar_on_a_terminal() -> None:
    outer, inner = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", BAR], stderr=inner, stdout=subprocess.PIPE) as process:
        os.close(inner)
        shown = b""
        try:
            while chunk := os.read(outer, 4096):
                shown += chunk
        except OSError:
            # The terminal is gone with the process.
            pass
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(outer)
    assert process.returncode == 0
    assert b"preparing" in shown
    assert b"3/3" in shown
