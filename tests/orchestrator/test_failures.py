"""Which failures of a gang are tried again, and how they are told."""

from __future__ import annotations

import pickle

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_a_user_mistake_is_final_at_once() -> None:
    from ray.train import ControllerError

    from orchestrator.errors import TrialError
    from orchestrator.failures import Judge, explain

    with pytest.raises(TrialError) as caught:
        Judge().after_exception(None, {0: RuntimeError("peer gone"), 1: ValueError("lr 7 is too large; take 0 to 1")})
    assert explain(ControllerError(caught.value)) == (1, "worker 1: lr 7 is too large; take 0 to 1")


def test_the_same_exception_twice_is_final_and_a_dead_worker_is_not() -> None:
    from ray.exceptions import RayActorError

    from orchestrator.errors import TrialError
    from orchestrator.failures import Judge

    judge = Judge()
    for _ in range(3):
        judge.after_exception(None, {0: RayActorError()})
    judge.after_exception(None, {0: RuntimeError("out of luck")})
    judge.after_exception(None, {0: RuntimeError("connection reset")})
    with pytest.raises(TrialError, match="worker 0: RuntimeError: connection reset"):
        judge.after_exception(None, {0: RuntimeError("connection reset")})


def test_failures_of_workers_are_told_by_the_one_that_raised() -> None:
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError

    from orchestrator.failures import explain

    raised = WorkerGroupError("...", {0: RayActorError(), 2: KeyError("weights")})
    assert explain(raised) == (2, "worker 2: KeyError: 'weights'")
    rank, text = explain(WorkerGroupError("...", {3: RayActorError()}))
    assert rank == 3
    assert text.startswith("worker 3 died too often")
    assert explain(OSError("disk full")) == (0, "OSError: disk full")


def test_the_verdict_survives_the_way_to_the_driver() -> None:
    from orchestrator.errors import TrialError
    from orchestrator.failures import Judge

    with pytest.raises(TrialError) as caught:
        Judge().after_exception(None, {3: ValueError("no")})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == "worker 3: no"
    assert copy.rank == 3
