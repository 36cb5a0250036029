"""Which class a failure has, which are tried again and how often, and how they are told."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from orchestrator.checkpoints import CheckpointStore
from orchestrator.deaths import DeathBook, Deaths
from orchestrator.errors import LeaseLostError, StopAskedError, StorageError, TrackingError, TrialError
from orchestrator.failures import CLASSES, advise, classify
from orchestrator.storage import Storage

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Diverged(ValueError):
    failure = "diverged"


class NotAClass(RuntimeError):
    failure = "bad luck"


def _checkpoint(storage: Storage, key: str, step: int, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text("{}")
    CheckpointStore(storage, key).save(folder, step, {})


def test_every_exception_has_a_class_and_every_class_an_advice() -> None:
    for error, failure in (
        (Diverged("nan"), "diverged"),
        (NotAClass("x"), "bug"),
        (MemoryError(), "out-of-memory"),
        (ValueError("lr 7"), "mistake"),
        (StorageError("away"), "storage"),
        (TrackingError("away"), "tracking"),
        (LeaseLostError("taken"), "lease-lost"),
        (StopAskedError("stopped"), "stopped"),
        (KeyError("weights"), "bug"),
    ):
        assert classify(error) == failure
    for failure in CLASSES:
        assert advise(failure, 400).endswith("; the same command goes on from the checkpoint of step 400")
        assert advise(failure, None).endswith("; the same command begins anew, as it has no checkpoint yet")
        assert "\n" not in advise(failure, 1)


def test_deaths_count_only_as_long_as_no_newer_checkpoint_is_made() -> None:
    deaths = Deaths(owner="a")
    for _ in range(50):
        deaths = deaths.after(deaths.step + 100, [])
        assert deaths.row == 1
    deaths = deaths.after(deaths.step, []).after(deaths.step, [])
    assert (deaths.row, deaths.total) == (3, 52)
    # A checkpoint that was lost (damaged, deleted) is no progress when it is made again.
    assert deaths.after(None, []).after(deaths.step, []).row == 5


def test_an_exception_that_repeats_without_progress_is_known_again() -> None:
    first = Deaths(owner="a").after(100, ["KeyError: 1"])
    assert not first.repeated
    assert first.after(100, ["KeyError: 1", "OSError: x"]).repeated
    assert not first.after(100, ["KeyError: 2"]).repeated
    assert not first.after(200, ["KeyError: 1"]).repeated


def test_the_count_outlives_who_counts_but_not_the_launch(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    assert [DeathBook(storage, "k", "launch 1").count().row for _ in range(3)] == [1, 2, 3]
    _checkpoint(storage, "k", 8, tmp_path / "c")
    assert DeathBook(storage, "k", "launch 1").count().row == 1
    assert DeathBook(storage, "k", "launch 2").count().total == 1
    storage.write_json("trials/k/deaths.json", {"owner": "launch 2", "surprise": 1})
    assert DeathBook(storage, "k", "launch 2").count().total == 1


def test_a_user_mistake_is_final_at_once_and_travels_to_the_driver(tmp_path: Path) -> None:
    from ray.train import ControllerError

    from orchestrator.judge import Judge, Verdict, explain

    judge = pickle.loads(pickle.dumps(Judge(str(tmp_path), "k", "me", 3)))
    with pytest.raises(TrialError) as caught:
        judge.after_exception(None, {0: RuntimeError("peer gone"), 1: ValueError("lr 7 is too large; take 0 to 1")})
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert explain(ControllerError(travelled)) == Verdict(
        failure="mistake", rank=1, reason="worker 1: lr 7 is too large; take 0 to 1", final=True
    )


def test_dead_workers_are_restarted_until_they_die_too_often_without_a_checkpoint(tmp_path: Path) -> None:
    from ray.exceptions import RayActorError
    from ray.train import ControllerError

    from orchestrator.judge import Judge, explain

    storage = Storage(str(tmp_path / "storage"))
    judge = Judge(storage.uri, "k", "me", 3)
    for step in (0, 5):
        if step:
            _checkpoint(storage, "k", step, tmp_path / "c")
        for _ in range(3):
            judge.after_exception(None, {1: RayActorError()})
    with pytest.raises(TrialError, match="worker 1: its process died; that was death 4 in a row") as caught:
        judge.after_exception(None, {1: RayActorError()})
    assert explain(ControllerError(caught.value)).failure == "worker-lost"


def test_an_unknown_exception_gets_a_second_try_and_no_third(tmp_path: Path) -> None:
    from orchestrator.judge import Judge

    judge = Judge(str(tmp_path), "k", "me", 3)
    judge.after_exception(None, {0: RuntimeError("out of luck")})
    judge.after_exception(None, {0: RuntimeError("index 3")})
    with pytest.raises(TrialError, match="worker 0: RuntimeError: index 3"):
        judge.after_exception(None, {0: RuntimeError("index 3")})


def test_the_cause_is_told_and_not_what_followed_from_it() -> None:
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    from orchestrator.judge import judge

    peer, dead = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:3"), RayActorError()
    health = WorkerHealthCheckFailedError("A worker health check failed. pid 12", dead)
    moved = RayActorError(error_msg="The actor is dead because its node has died. Node Id: 3")
    taken = RayActorError(preempted=True)
    for errors, failure, rank in (
        ({0: peer, 1: health}, "worker-lost", 1),
        ({0: peer}, "worker-lost", 0),
        ({0: peer, 1: moved}, "node-lost", 1),
        ({0: health, 1: taken}, "preempted", 1),
        ({0: peer, 1: Diverged("nan")}, "diverged", 1),
        ({0: dead, 1: OutOfMemoryError("task killed")}, "out-of-memory", 1),
        ({0: dead, 1: KeyError("x")}, "worker-lost", 0),
        ({0: peer, 1: KeyError("x")}, "bug", 1),
    ):
        found = judge(errors)
        assert (found.failure, found.rank) == (failure, rank), errors
    # Text with a port or a process number in it would never repeat; a lost peer is known by its class.
    assert judge({0: peer}).signatures == ()
    assert judge({0: peer, 1: dead}, out_of_memory=True).failure == "out-of-memory"
    hung = judge({0: peer, 1: dead}, hung="worker 1 hangs: no event for 300 s")
    assert (hung.failure, hung.rank, hung.reason) == ("hang", 1, "worker 1 hangs: no event for 300 s")
    assert judge({0: Diverged("nan")}, hung="worker 1 hangs").failure == "diverged"


def test_what_ray_does_not_retry_is_told_apart() -> None:
    from ray.exceptions import RayActorError
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    from orchestrator.judge import explain

    assert explain(ControllerError(WorkerGroupStartupTimeoutError(4))).failure == "waiting"
    setup = explain(ControllerError(RuntimeError("init_process_group: timeout")))
    assert (setup.failure, setup.final) == ("worker-lost", False)
    assert "could not be set up: RuntimeError: init_process_group" in setup.reason
    assert explain(RayActorError()).failure == "worker-lost"
    assert explain(OSError("disk full")).reason == "OSError: disk full"
