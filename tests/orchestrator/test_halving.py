"""ASHA's decisions as requests in the ledger, without a cluster."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid import expand
from orchestrator.halving import asha
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.search import Halving, sample_trials
from orchestrator.storage import Storage
from tests.orchestrator.fake import FakeWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

HALVING = Halving(metric="val/mIoU", mode="max", grace=2, reduction=2, total=16)
KEYS = [f"{number:016x}" for number in range(3)]


@dataclass
class TuneTrial:
    """What the scheduler reads of Tune's own."""

    index: int
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.config = {"index": self.index}

    @property
    def trial_id(self) -> str:
        return f"t{self.index}"


class Search:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(Storage(str(folder)))
        self.leases = [self.ledger.claim(key, "me") or 0 for key in KEYS]
        for key, lease in zip(KEYS, self.leases, strict=True):
            self.ledger.write_progress(key, {"state": "running", "lease": lease, "owner": "me"})
        self.scheduler = asha(HALVING, KEYS, str(folder))
        self.trials = [TuneTrial(index) for index in range(3)]
        for trial in self.trials:
            self.scheduler.on_trial_add(None, trial)

    def report(self, index: int, step: int, value: float) -> str | None:
        """Tell of a validation; return the reason for which the trial was asked to stop."""
        result = {"step": step, "val/mIoU": value}
        assert self.scheduler.on_trial_result(None, self.trials[index], result) == "CONTINUE"
        assert self.ledger.stop_asked(KEYS[index], self.leases[index]) == (self.reason(index) is not None)
        return self.reason(index)

    def reason(self, index: int) -> str | None:
        return self.ledger.stop_reason(KEYS[index], self.leases[index])


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def test_a_sample_below_the_others_is_asked_once_and_tune_kills_nobody(search: Search) -> None:
    assert search.report(0, 1, 5.0) is None, "before the grace period nobody is judged"
    assert search.report(0, 2, 50.0) is None
    assert search.report(1, 2, 60.0) is None
    assert search.report(2, 2, 40.0) == "stopped early by the search at step 2 (val/mIoU 40, rank 3 of 3 there)"
    search.ledger.ask_stop(KEYS[2], search.leases[2], "seen")
    assert search.report(2, 4, 1.0) == "seen", "it was asked twice"


def test_at_its_last_step_a_sample_is_let_finish(search: Search) -> None:
    assert search.report(0, 16, 50.0) is None
    assert search.report(1, 16, 10.0) is None


def test_another_lease_is_not_asked(search: Search) -> None:
    search.report(0, 2, 50.0)
    assert search.report(1, 2, 10.0)
    assert not search.ledger.stop_asked(KEYS[1], search.leases[1] + 1)
    assert search.ledger.stop_reason(KEYS[1], search.leases[1] + 1) is None


def test_the_copy_that_tune_saves_asks_nobody(search: Search) -> None:
    from ray import cloudpickle

    search.scheduler = pickle.loads(cloudpickle.dumps(search.scheduler))
    for trial in search.trials:
        search.scheduler.on_trial_add(None, trial)
    search.report(0, 2, 50.0)
    assert search.report(1, 2, 10.0) is None


def test_without_a_search_tune_has_its_own_way() -> None:
    assert asha(None, KEYS, "nowhere") is None


def test_a_sample_that_was_stopped_early_is_skipped_in_a_search_alone() -> None:
    workload = FakeWorkload()
    cells = workload.cells()[:1]
    (sample,) = sample_trials(workload, cells, [], [{"rate": "0.1"}])
    assert sample.name == "thin-add-short rate=0.1"
    assert sample.spec.not_comparable == ("rate 0.1", "its settings are a sample of a search")
    ended = {"state": "stopped", "error": "stopped early by the search at step 2 (x)", "metrics": {}}
    record = TrialRecord(key=sample.key, state="stopped", result=ended, checkpoint_step=3)

    def action(trial: Any, record: TrialRecord, **more: Any) -> tuple[str, str]:
        plan = make_plan([trial], {trial.key: record}, ClusterShape(slots=2, cpus=2), **more)
        return plan.trials[0].action, plan.trials[0].reason

    skipped = ("skip", "stopped early by the search at step 2 (x); --resume-stopped goes on with it")
    assert action(sample, record) == skipped
    assert action(sample, record, resume_stopped=True)[0] == "resume"
    by_hand = TrialRecord(key=sample.key, state="stopped", result={**ended, "error": None}, checkpoint_step=3)
    assert action(sample, by_hand)[0] == "resume"
    (plain,) = expand(workload, cells)
    assert action(plain, record)[0] == "resume"
