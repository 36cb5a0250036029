"""A gang that hangs shows its stacks and starts again; Ctrl-C makes it save, and the same launch goes on there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

CELL = "thick-sort-long"


def test_a_hung_gang_restarts_and_a_stopped_one_resumes_at_the_very_step(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    storage = Storage(f"{tmp_path}/results")
    ledger = Ledger(storage)
    arguments = [
        storage.uri, CELL, "--workers", "2", "--data", f"{tmp_path}/data", "--hang-seconds", "8",
        "--set", "steps=60", "--set", "interval=5", "--set", "sleep=0.3",
    ]  # fmt: skip

    launch = children.start(arguments, tmp_path / "home")
    keys: list[str] = []

    def trains_again() -> bool:
        keys[:] = [entry.key for entry in ledger.benchmark("bench")]
        return bool(keys) and (ledger.progress(keys[0]) or {}).get("step", 0) >= 10

    try:
        children.wait_for(trains_again, 240, "the gang has started again after its hang")
        os.killpg(launch.pid, signal.SIGINT)  # as a terminal does: the launch and all that it has started
        ended = children.finish(launch)
    finally:
        children.end(launch)

    (key,) = keys
    log, tracker = (
        storage.read_bytes(f"trials/{key}/logs/rank0.log").decode(),
        Tracker(f"{storage.uri}/mlflow.db", "bench"),
    )
    assert log.count("starts on") == 2
    assert "goes on from the checkpoint of step 5" in log
    (run,) = tracker.runs()
    assert run.status == "KILLED"
    assert {"logs/stacks-rank0.txt", "logs/stacks-rank1.txt"} < set(tracker.artifact_names(run.run_id, "logs"))
    stacks = storage.read_bytes(f"trials/{key}/logs/stacks-rank1.txt").decode()
    assert "after step " in stacks.splitlines()[0]
    assert "_hang_once" in stacks

    step = CheckpointStore(storage, key).latest_step()
    result = ledger.result(key) or {}
    assert (result["state"], result["failure"]) == ("stopped", "stopped")
    assert result["advice"].endswith(f"the same command goes on from the checkpoint of step {step}")
    assert (ledger.progress(key) or {})["step"] == step
    assert f"stops at step {step}, as was asked for" in log
    assert ended["stopped"]
    assert ended["told"][0].startswith("stopping: waiting for checkpoints, up to 60 s")
    assert ended["told"][1:] == [f"{CELL}: {result['advice']}"]
    lease = ledger.leases.last(key)
    assert lease is not None
    assert lease.released

    again = children.finish(children.start(arguments, tmp_path / "home"))
    assert again["outcomes"][CELL]["state"] == "finished", again
    (run,) = tracker.runs()
    assert run.status == "FINISHED"
    assert run.tags["hrgrid.failure"] == ""
    log = storage.read_bytes(f"trials/{key}/logs/rank0.log").decode()
    assert f"goes on from the checkpoint of step {step}" in log
    points = tracker.client.get_metric_history(run.run_id, "train/loss")
    assert [int(point.step) for point in points] == list(range(5, 61, 5))
