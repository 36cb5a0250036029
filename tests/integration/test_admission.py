"""Ray Tune follows the dispatch policy: its order, never over capacity, shared GPUs, a retried trial, nothing left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.packing import simulate
from tests.integration import admission, children


@pytest.mark.ray
def test_tune_starts_what_the_policy_admits(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.admission", str(folder)],
        cwd=children.ROOT,
        env=children.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == []
    starts = [index for _, index, kind in found["events"] if kind == "start"]
    # The first four come at once, in the order in which their processes are up; the gang of four waits for all others.
    assert simulate(admission.GANGS, 4).sequence == (0, 2, 3, 4, admission.FAILS, 1)
    assert sorted(starts[:4]) == [0, 2, 3, 4]
    assert starts[4:] == [admission.FAILS, admission.FAILS, 1]
    taken = 0.0
    for _, index, kind in found["events"]:
        taken += admission.GANGS[index].slots * (1 if kind == "start" else -1)
        assert 0 <= taken <= 4
    assert taken == 0
    assert (found["left"], found["groups"] > 0) == (0, True)
