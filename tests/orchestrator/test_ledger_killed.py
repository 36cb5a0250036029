"""A process that writes the ledger is killed before any one of its writes; whoever comes next can always go on.

The child is a fork that counts what it asks of the system (or of the S3 API) through Python's audit hooks, and sends
itself SIGKILL in place of the n-th: between a temporary file and its rename, between a lease and its progress.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage
from orchestrator.workload import Spec
from tests.orchestrator.fake import FakeWorkload

DEAD = "dead:1:1"
STEPS = 1


def spec() -> Spec:
    workload = FakeWorkload()
    return workload.resolve(workload.cells()[0], {}, seed=0, data="somewhere")


def entry(key: str) -> Entry:
    return Entry(cell="cell", key=key, facets={}, seed=0)


def launch(storage: Storage, folder: Path, owner: str) -> int:
    """Everything that a launch writes for one trial, in its order; returns the lease."""
    ledger = Ledger(storage)
    ledger.add_benchmark("b", [entry("k"), entry("l")])
    lease = ledger.claim("k", owner)
    assert lease is not None, "a launcher that comes after a dead one cannot go on"
    ledger.write_spec("k", spec())
    store = CheckpointStore(storage, "k", guard=lambda: ledger.leases.require("k", lease))
    begun = store.latest_step() or 0
    for step in range(begun + 1, STEPS + 1):
        ledger.write_progress("k", {"step": step, "owner": owner}, lease=lease)
        (folder / "weights").write_bytes(bytes([step]) * 1000)
        store.save(folder, step, {"loss": 1.0 / step})
        assert ledger.renew("k", owner, lease)
    ledger.write_result("k", {"state": "finished", "metrics": {"score": 5.0}}, lease=lease)
    ledger.release("k", owner, lease)
    return lease


def changes_something(event: str, arguments: tuple[Any, ...]) -> bool:
    """Tell whether an audit event is a change of the disk, or a request that changes an S3 API's objects."""
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        return isinstance(mode, str) and set(mode) & set("wax+") != set() and bool(flags & (os.O_WRONLY | os.O_RDWR))
    if event == "http.client.send":
        return bytes(arguments[1][:4]) in (b"PUT ", b"POST", b"DELE")
    return event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")


def run_and_die(work: Callable[[], object], before: int) -> bool:
    """Fork a child that does the work and kills itself before its n-th change; True if it did, False if it ended."""
    child = os.fork()
    if child == 0:
        try:
            count = 0

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal count
                if changes_something(event, arguments):
                    count += 1
                    if count == before:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def unless_incomplete(sentence: str) -> None:
    """An upload that the kill has cut is told; a damaged checkpoint would be a fault of ours."""
    assert " is incomplete (no manifest.json" in sentence, sentence


def go_on(storage: Storage, folder: Path) -> None:
    """What a new launcher of the same machine does after the kill: all that it reads makes sense, and it can end."""
    ledger = Ledger(storage)
    record = ledger.trial("k")
    assert record.state in ("new", "running", "finished")
    assert {known.key for known in ledger.benchmark("b")} in (set(), {"k", "l"})
    assert record.checkpoint_step in (None, STEPS)
    last = ledger.leases.last("k")
    if last is not None:
        assert last.owner == DEAD
        ledger.release("k", "new:1:1", last.number)
    steps = CheckpointStore(storage, "k").steps()
    sound = CheckpointStore(storage, "k", warn=unless_incomplete).latest(folder / "download")
    assert (sound.step if sound else None) == max(steps, default=None)
    if record.state != "finished":
        lease = launch(storage, folder / "again", "new:1:1")
        assert lease == (1 if last is None else last.number + 1)
    assert ledger.state("k") == "finished"
    assert [known.key for known in ledger.benchmark("b")] == ["k", "l"]
    assert ledger.spec("k") == spec()
    sound = CheckpointStore(storage, "k", warn=unless_incomplete).latest(folder / "download")
    assert sound is not None
    assert sound.step == STEPS


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_kill_before_any_write(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = Storage(str(tmp_path / "s")) if kind == "local" else request.getfixturevalue("s3_storage")
    kills = 0
    while True:
        storage, folder = root.child(str(kills)), tmp_path / str(kills)
        (folder / "again").mkdir(parents=True)
        (folder / "first").mkdir()
        died = run_and_die(lambda s=storage, f=folder: launch(s, f / "first", DEAD), kills + 1)  # type: ignore[misc]
        go_on(storage, folder)
        if not died:
            break
        kills += 1
    assert kills > (40 if kind == "local" else 8), "the child was hardly ever killed"
