"""A launch killed in the middle, launched again: nothing twice, nothing lost; and once more, with nothing to do."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

QUICK, SLOW = "thick-sort-short", "thin-sort-short"


def test_a_killed_launch_goes_on_and_a_finished_one_does_nothing(tmp_path: Path) -> None:
    results = f"{tmp_path}/results"
    arguments = [results, QUICK, SLOW, "--slots", "1", "--set", f"{SLOW}:sleep=1.5"]
    ledger = Ledger(Storage(results))

    launch = children.start(arguments, tmp_path / "home")
    keys: dict[str, str] = {}

    def slow_has_checkpoint() -> bool:
        keys.update({entry.cell: entry.key for entry in ledger.benchmark("bench")})
        return SLOW in keys and (ledger.trial(keys[SLOW]).checkpoint_step or 0) >= 4

    try:
        children.wait_for(slow_has_checkpoint, 200, "the second cell has a checkpoint")
        # Ray's two agent processes look only now and then whether anybody needs them.
        family = [
            child for child in psutil.Process(launch.pid).children(recursive=True) if "Agent" not in child.name()
        ]
    finally:
        launch.kill()
    launch.communicate()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    tracker = Tracker(f"{results}/mlflow.db", "bench")
    before = {run.name: run for run in tracker.runs()}
    assert {name: run.status for name, run in before.items()} == {QUICK: "FINISHED", SLOW: "RUNNING"}

    second = children.finish(children.start(arguments, tmp_path / "home"))
    assert second["freed"] == [keys[SLOW]]
    assert second["actions"] == {QUICK: "skip", SLOW: "resume"}
    assert second["outcomes"][SLOW]["state"] == "finished"
    after = {run.name: run for run in tracker.runs()}
    assert {name: run.run_id for name, run in after.items()} == {name: run.run_id for name, run in before.items()}
    assert after[SLOW].status == "FINISHED"
    history = tracker.client.get_metric_history(after[SLOW].run_id, "train/loss")
    assert [point.step for point in history] == [2, 4, 6, 8]
    log = Storage(results).read_bytes(f"trials/{keys[SLOW]}/logs/rank0.log").decode()
    assert log.count("goes on from the checkpoint of step") == 1

    third = children.finish(children.start(arguments, tmp_path / "home"))
    assert third["actions"] == {QUICK: "skip", SLOW: "skip"}
    assert not third["ray"]
    assert not third["mlflow"]
