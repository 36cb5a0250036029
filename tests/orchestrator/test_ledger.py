"""What the ledger says of a trial, as time goes by and launches compete."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import UsageError
from orchestrator.identity import trial_key
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage
from tests.orchestrator.fake import FakeWorkload


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(storage: Storage, clock: Clock) -> Ledger:
    return Ledger(storage, clock)


def entry(number: int) -> Entry:
    return Entry(cell=f"cell-{number}", key=f"key-{number}", facets={"task": "add"}, seed=number)


def test_a_life(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    assert ledger.state("k") == "new"
    ledger.write_progress("k", {"step": 1, "metrics": {"train/loss": 2.0}, "run_id": "r"})
    assert ledger.state("k") == "running"
    clock.now += 59
    assert ledger.state("k") == "running"
    clock.now += 1
    assert ledger.state("k") == "interrupted"
    ledger.write_result("k", {"state": "failed", "error": "out of memory", "metrics": {}})
    assert ledger.state("k") == "failed"
    clock.now += 5
    ledger.write_progress("k", {"step": 2, "metrics": {"train/loss": 1.0}, "run_id": "r"})
    record = ledger.trial("k")
    assert (record.state, record.run_id, record.metrics) == ("running", "r", {"train/loss": 1.0})
    assert record.age == 0
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").write_text("")
    CheckpointStore(ledger.storage, "k").save(tmp_path / "c", 2, {})
    assert ledger.trial("k").checkpoint_step == 2
    ledger.write_result("k", {"state": "finished", "metrics": {"val/mIoU": 70.0}})
    clock.now += 5
    ledger.write_progress("k", {"step": 2})
    assert ledger.trial("k").state == "finished"
    assert ledger.trial("k").metrics == {"val/mIoU": 70.0}


def test_a_result_has_a_known_state(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="finished, failed or stopped, not 'done'"):
        ledger.write_result("k", {"state": "done"})


def test_a_spec_comes_back_equal(ledger: Ledger) -> None:
    workload = FakeWorkload()
    spec = workload.resolve(workload.cells()[0], {"rate": "0.25"}, seed=3, data="somewhere")
    ledger.write_spec("k", spec)
    assert ledger.spec("k") == spec
    assert trial_key(ledger.spec("k")) == trial_key(spec)
    with pytest.raises(UsageError, match="no trial 'other' in"):
        ledger.spec("other")


def test_many_records_at_once(ledger: Ledger) -> None:
    for number in range(40):
        ledger.write_result(f"k{number}", {"state": "finished", "metrics": {"n": number}})
    records = ledger.trials([*(f"k{number}" for number in range(40)), "never"])
    assert [record.metrics.get("n") for record in records.values()] == [*range(40), None]
    assert records["never"].state == "new"


def test_a_benchmark_grows_over_launches(ledger: Ledger) -> None:
    assert ledger.benchmark("b") == []
    ledger.add_benchmark("b", [entry(1), entry(2)])
    ledger.add_benchmark("b", [entry(2), entry(3)])
    assert ledger.benchmark("b") == [entry(1), entry(2), entry(3)]
    assert ledger.benchmarks() == ["b"]


def test_a_lease_has_one_holder(ledger: Ledger, clock: Clock) -> None:
    first = ledger.claim("k", "launch-1")
    assert first is not None
    assert ledger.claim("k", "launch-2") is None
    clock.now += 50
    assert ledger.renew("k", "launch-1", first)
    clock.now += 50
    assert ledger.claim("k", "launch-2") is None
    ledger.release("k", "launch-1", first)
    second = ledger.claim("k", "launch-2")
    assert second is not None
    assert not ledger.renew("k", "launch-1", first)
    assert ledger.claim("k", "launch-3") is None


def test_a_dead_holder_is_replaced_by_exactly_one(ledger: Ledger, clock: Clock) -> None:
    ledger.claim("k", "dead")
    clock.now += 40
    ledger.write_progress("k", {"step": 1})
    clock.now += 59
    assert ledger.claim("k", "early") is None
    clock.now += 1
    start = threading.Barrier(6)

    def attempt(number: int) -> int | None:
        start.wait()
        return ledger.claim("k", f"launch-{number}")

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(attempt, range(6)), key=str) == [2, None, None, None, None, None]
