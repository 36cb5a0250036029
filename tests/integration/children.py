"""Launches as child processes, each in its own process group, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a child: a home of its own, so that no token or setting of the user is touched."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    home.mkdir(exist_ok=True)
    return {**inherited, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def start(
    arguments: Sequence[str], home: Path, program: str = "tests.integration.launch", **more: str
) -> subprocess.Popen[str]:
    """Start a launch, with `more` in its environment; its output is read when it has ended."""
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.Popen(
        command,
        cwd=home.parent,
        env=environment(home, **more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(launch: subprocess.Popen[str], timeout: float = 240.0) -> dict[str, Any]:
    """Wait for a launch; its JSON line, which must be all that it prints."""
    try:
        out, err = launch.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end(launch)
        out, err = launch.communicate()
        raise AssertionError(f"no end after {timeout} s:\n{out}\n{err}") from None
    assert not err, err
    (line,) = out.splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def end(process: subprocess.Popen[Any], number: int = signal.SIGKILL) -> None:
    """Kill a child and everything that it started."""
    family = [process.pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_for(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Wait until a condition holds; fails with `what` when it does not in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {timeout:.0f} s")
