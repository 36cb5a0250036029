"""What the ledger says of a trial, as time goes by and launches compete."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from moto.s3.models import s3_backends

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import LeaseLostError, UsageError
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


def add_age(storage: Storage, path: str, seconds: float) -> None:
    """Make a file older by the storage's own clock."""
    if storage.is_local:
        file = Path(storage.uri, path)
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - seconds))
        return
    bucket, _, prefix = storage.uri.removeprefix("s3://").partition("/")
    ((_, backend),) = [(name, found) for name, found in s3_backends["123456789012"].items() if bucket in found.buckets]
    backend.buckets[bucket].keys[f"{prefix}/{path}"].last_modified -= timedelta(seconds=seconds)


def test_a_lease_has_one_holder(ledger: Ledger) -> None:
    first = ledger.claim("k", "launch-1")
    assert first == 1
    assert ledger.claim("k", "launch-2") is None
    add_age(ledger.storage, "trials/k/leases/000001.json", 50)
    assert ledger.renew("k", "launch-1", first)
    add_age(ledger.storage, "trials/k/leases/000001.json", 50)
    assert ledger.claim("k", "launch-2") is None
    ledger.release("k", "launch-1", first)
    assert not ledger.holds("k", first)
    assert not ledger.renew("k", "launch-1", first)
    second = ledger.claim("k", "launch-2")
    assert second == 2
    assert ledger.holds("k", second)
    assert ledger.claim("k", "launch-3") is None


def test_a_dead_holder_is_replaced_by_exactly_one(ledger: Ledger) -> None:
    assert ledger.claim("k", "dead") == 1
    add_age(ledger.storage, "trials/k/leases/000001.json", 100)
    ledger.write_progress("k", {"step": 1}, lease=1)
    add_age(ledger.storage, "trials/k/progress.json", 50)
    assert ledger.claim("k", "early") is None
    add_age(ledger.storage, "trials/k/progress.json", 11)
    start = threading.Barrier(6)

    def attempt(number: int) -> int | None:
        start.wait()
        return ledger.claim("k", f"launch-{number}")

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(attempt, range(6)), key=str) == [2, None, None, None, None, None]


def test_clocks_of_machines_do_not_matter(ledger: Ledger, clock: Clock) -> None:
    """The storage's clock tells how old a lease is, not those of its holder and of who wants it."""
    behind, ahead = Ledger(ledger.storage, lambda: 10.0), Ledger(ledger.storage, lambda: 9e9)
    assert behind.claim("k", "behind") == 1
    assert ahead.claim("k", "ahead") is None
    assert ahead.claim("l", "ahead") == 1
    add_age(ledger.storage, "trials/l/leases/000001.json", 61)
    assert behind.claim("l", "behind") == 2


def test_progress_of_an_earlier_lease_is_no_sign_of_life(ledger: Ledger) -> None:
    ledger.claim("k", "gone")
    ledger.release("k", "gone", 1)
    assert ledger.claim("k", "dead") == 2
    ledger.write_progress("k", {"step": 1, "lease": 1})
    add_age(ledger.storage, "trials/k/leases/000002.json", 61)
    assert ledger.claim("k", "next") == 3


def test_a_restarted_driver_gets_a_new_lease_at_once(ledger: Ledger) -> None:
    assert ledger.claim("k", "launch-1") == 1
    assert ledger.claim("k", "launch-1") == 2
    assert not ledger.holds("k", 1)
    with pytest.raises(
        LeaseLostError, match=r"a newer driver of this launch \(launch-1\) has taken over trial k; this"
    ):
        ledger.write_progress("k", {"step": 1}, lease=1)


def test_a_lease_that_was_taken_over_writes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    lost = ledger.claim("k", "frozen")
    assert lost is not None
    add_age(ledger.storage, "trials/k/leases/000001.json", 61)
    lease = ledger.claim("k", "other")
    ledger.write_progress("k", {"step": 5}, lease=lease)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").write_text("")
    store = CheckpointStore(ledger.storage, "k", guard=lambda: ledger.leases.require("k", lost))
    for write in (
        lambda: ledger.write_progress("k", {"step": 1}, lease=lost),
        lambda: ledger.write_result("k", {"state": "failed"}, lease=lost),
        lambda: store.save(tmp_path / "c", 1, {}),
    ):
        with pytest.raises(LeaseLostError, match=r"another launch \(other\) has taken over trial k; this one stops"):
            write()
    assert ledger.progress("k") == {"updated": 1000.0, "step": 5, "lease": 2}
    assert ledger.result("k") is None
    assert ledger.storage.list("trials/k/checkpoints") == []
    ledger.release("k", "frozen", lost)
    assert ledger.holds("k", 2)
    ledger.write_result("k", {"state": "finished", "metrics": {}}, lease=lease)
    assert ledger.state("k") == "finished"


def test_a_renewal_and_a_take_over_cannot_both_succeed(ledger: Ledger) -> None:
    def race(key: str) -> tuple[bool, int | None]:
        ledger.claim(key, "holder")
        add_age(ledger.storage, f"trials/{key}/leases/000001.json", 61)
        start = threading.Barrier(2)

        def renew() -> bool:
            start.wait()
            return ledger.renew(key, "holder", 1)

        def take() -> int | None:
            start.wait()
            return ledger.claim(key, "taker")

        with ThreadPoolExecutor(2) as pool:
            renewed, taken = pool.submit(renew), pool.submit(take)
            return renewed.result(), taken.result()

    ended = [race(f"k{number}") for number in range(20)]
    assert set(ended) <= {(True, None), (False, 2)}


def test_launches_that_add_at_the_same_moment_lose_nothing(ledger: Ledger) -> None:
    start = threading.Barrier(8)

    def add(number: int) -> None:
        start.wait()
        ledger.add_benchmark("b", [entry(number), entry(number + 1)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert sorted(known.seed for known in ledger.benchmark("b")) == list(range(9))


def test_a_clock_ahead_does_not_keep_a_dead_trial_running(ledger: Ledger, clock: Clock) -> None:
    ledger.write_progress("k", {"step": 1, "updated": clock.now + 3600})
    assert ledger.state("k") == "interrupted"


def test_what_came_last_is_told_by_leases_not_by_clocks(tmp_path: Path) -> None:
    driver = Ledger(Storage(str(tmp_path)))
    ahead = Ledger(driver.storage, clock=lambda: time.time() + 20.0)
    behind = Ledger(driver.storage, clock=lambda: time.time() - 20.0)
    first = driver.claim("k", "launch")
    ahead.write_progress("k", {"step": 1}, lease=first)
    driver.write_result("k", {"state": "failed"}, lease=first)
    assert driver.state("k") == "failed"
    second = driver.claim("k", "launch")
    behind.write_progress("k", {"step": 1}, lease=second)
    assert driver.state("k") == "running"
