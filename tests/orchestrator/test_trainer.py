"""What the driver of a trial does before and after its gang, when it dies or the storage is away. Without Ray."""

from __future__ import annotations

import logging
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.errors import StorageError
from orchestrator.grid import expand
from orchestrator.ledger import Ledger
from orchestrator.mourning import UNBEGUN, mourner
from orchestrator.plan import ClusterShape, PlannedTrial, make_plan
from orchestrator.settings import Settings, make_settings
from orchestrator.storage import Storage
from orchestrator.trainer import RunOptions, TrialOutcome, close_trial, run_trial
from tests.orchestrator.fake import FakeWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def _planned(workload: FakeWorkload) -> PlannedTrial:
    trials = expand(workload, workload.cells()[:1], [], data="data")
    return make_plan(trials, {}, ClusterShape(slots=1, cpus=1), workers=["1"], cpus_per_worker=1).trials[0]


def _settings(folder: Path) -> Settings:
    return make_settings(storage=f"{folder}/results", environment={})


def test_a_driver_that_died_after_it_had_written_the_end_is_not_followed_by_a_training(tmp_path: Path) -> None:
    workload, settings = FakeWorkload(), _settings(tmp_path)
    planned, ledger = _planned(workload), Ledger(Storage(settings.storage))
    lease = ledger.claim(planned.key, "launch")
    ledger.write_result(planned.key, {"state": "stopped", "metrics": {"val/mIoU": 1.0}}, lease=lease)
    before = ledger.result(planned.key)
    outcome = run_trial(workload, planned, settings, RunOptions(owner="launch"))
    assert (outcome.state, outcome.metrics) == ("stopped", {"val/mIoU": 1.0})
    assert ledger.result(planned.key) == before
    assert ledger.state(planned.key) == "stopped"
    last = ledger.leases.last(planned.key)
    assert last is not None
    assert last.released


def test_the_end_of_a_trial_waits_for_a_storage_that_is_away(tmp_path: Path) -> None:
    workload, settings = FakeWorkload(), _settings(tmp_path)
    planned, ledger = _planned(workload), Ledger(Storage(settings.storage))
    lease = ledger.claim(planned.key, "launch")
    assert lease == 1
    place, aside = tmp_path / "results" / "trials", tmp_path / "aside"
    outcome = TrialOutcome(key=planned.key, cell="c", state="failed", error="died", failure="bug")
    options = RunOptions(owner="launch")
    place.rename(aside)
    place.write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        close_trial(workload, planned, settings, outcome, options, lease=lease, patience=0.0)

    def back() -> None:
        place.unlink()
        aside.rename(place)

    timer = threading.Timer(0.5, back)
    timer.start()
    close_trial(workload, planned, settings, outcome, options, lease=lease, patience=60.0)
    timer.join()
    assert ledger.state(planned.key) == "failed"
    assert not ledger.holds(planned.key, lease)


def test_a_dead_driver_is_one_line_and_too_many_are_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    error = tmp_path / "error.pkl"
    error.write_bytes(pickle.dumps(StorageError("the disk is full")))
    trial = SimpleNamespace(config={"index": 0}, pickled_error_file=str(error), max_failures=-1)
    callback = mourner([("k", "hrnet-a")], str(tmp_path / "results"), "launch", 3)
    with caplog.at_level(logging.WARNING):
        for _ in range(UNBEGUN):
            assert trial.max_failures == -1
            callback.on_trial_recover(0, [trial], trial)
    assert trial.max_failures == 0
    assert caplog.messages[0] == "hrnet-a: the driver of its trial ended (the disk is full); another one goes on"
