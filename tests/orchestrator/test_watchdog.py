"""A worker that hangs shows its stacks and ends itself; one that is slow, rests or evaluates does not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from orchestrator.watchdog import HANG_EXIT

ROOT = Path(__file__).resolve().parents[2]


def _run(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = f"""
import sys, threading, time
from pathlib import Path
from orchestrator.watchdog import Watchdog

def make(least, first):
    return Watchdog(Path("stacks.txt"), lambda said: print(said, flush=True), least=least, first=first, grace=0.1)

{textwrap.dedent(body)}
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_hang_ends_the_process_with_the_stacks_of_all_threads(tmp_path: Path) -> None:
    ended = _run(
        """
        def waits_for_nobody():
            threading.Event().wait()
        threading.Thread(target=waits_for_nobody, daemon=True).start()
        dog = make(0.5, 30.0)
        for step in range(1, 4):
            dog.event(step, is_step=True)
            time.sleep(0.01)
        def hangs_here():
            time.sleep(50)
        hangs_here()
        """,
        tmp_path,
    )
    assert ended.returncode == HANG_EXIT, ended.stderr
    assert "after step 3 (allowed: " in ended.stdout
    stacks = (tmp_path / "stacks.txt").read_text()
    assert "after step 3" in stacks.splitlines()[0]
    assert "hangs_here" in stacks
    assert "waits_for_nobody" in stacks


def test_a_storage_that_hangs_too_does_not_keep_the_process(tmp_path: Path) -> None:
    ended = _run(
        """
        import orchestrator.watchdog as watchdog
        watchdog.TELL_SECONDS = 0.3
        Watchdog(Path("stacks.txt"), lambda said: time.sleep(40), least=0.2, first=0.3, grace=0.1)
        time.sleep(30)
        """,
        tmp_path,
    )
    assert ended.returncode == HANG_EXIT, ended.stderr


def test_slow_steps_rest_and_evaluation_are_no_hang(tmp_path: Path) -> None:
    ended = _run(
        """
        dog = make(0.2, 30.0)
        dog.event(0)
        for step in range(1, 4):      # the pace makes 20 x 0.2 s allowed
            time.sleep(0.2)
            dog.event(step, is_step=True)
        time.sleep(0.8)
        dog.rest()
        time.sleep(0.5)
        dog.allow_long()
        time.sleep(0.5)
        dog.close()
        print("done")
        """,
        tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert not (tmp_path / "stacks.txt").exists()
