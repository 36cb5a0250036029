"""Two launches at the same moment share leases and the tracking store of a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage

_CHECK = """
import sys
from orchestrator.tracking import Tracker
Tracker(sys.argv[1], "bench", artifacts=sys.argv[2]).check()
"""


@pytest.mark.parametrize(("kind", "processes", "keys"), [("local", 8, 50), ("s3", 4, 12)])
def test_processes_race_for_leases(
    kind: str, processes: int, keys: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage = Storage(str(tmp_path / "s")) if kind == "local" else request.getfixturevalue("s3_storage")
    start_read, start_write = os.pipe()
    children = []
    for number in range(processes):
        result_read, result_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(start_write)
            os.read(start_read, 1)  # returns when the parent closes the other end: all start at once
            ledger = Ledger(storage)
            won = [str(key) for key in range(keys) if ledger.claim(f"k{key}", f"racer-{number}") is not None]
            os.write(result_write, " ".join(won).encode())
            os._exit(0)
        os.close(result_write)
        children.append((child, result_read))
    os.close(start_read)
    os.close(start_write)
    won: Counter[str] = Counter()
    for child, result in children:
        with os.fdopen(result) as stream:
            won.update(stream.read().split())
        assert os.waitpid(child, 0)[1] == 0
    assert won == Counter({str(key): 1 for key in range(keys)})


@pytest.mark.slow
def test_a_new_tracking_store_is_made_by_one_of_two(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CHECK, str(tmp_path / "mlflow.db"), str(tmp_path / "artifacts")]
    both = [subprocess.Popen(command, text=True, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
