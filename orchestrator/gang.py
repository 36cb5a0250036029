"""The gang of one trial: a Ray Train run whose workers come and go together."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train.torch import TorchTrainer

from orchestrator.failures import Judge, explain
from orchestrator.ledger import Ledger
from orchestrator.plan import PlannedTrial
from orchestrator.raystart import LOCAL
from orchestrator.scratch import Scratch
from orchestrator.storage import Storage
from orchestrator.triallog import read_tail
from orchestrator.worker import Assignment, train_on_worker
from orchestrator.workload import Workload

__all__ = ["run_gang"]

# The annotations of the installed Ray still describe Train V1.
_train: Any = ray.train

if TYPE_CHECKING:
    _Base = object
else:
    _Base = TorchTrainer


class _LeanTrainer(_Base):
    """Leaves out helpers that cost a process each, seconds at every start, and do nothing for us."""

    def _create_default_callbacks(self) -> list[Any]:
        # Ray Data is not used. The cleaner of placement groups asks the dashboard, which a local Ray does not have.
        idle = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if os.environ.get(LOCAL) else set())
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in idle]


def run_gang(
    workload: Workload, assignment: Assignment, planned: PlannedTrial, *, max_failures: int
) -> tuple[dict[str, float], str | None]:
    """Train and evaluate on a gang; return the final metrics, and the error with the end of the log if there is one.

    A gang that lost a worker is started again up to `max_failures` times.
    """

    def loop() -> dict[str, float] | None:
        return train_on_worker(workload, assignment)

    resources = {"CPU": float(planned.cpus_per_worker)}
    if planned.gpus_per_worker:
        resources["GPU"] = planned.gpus_per_worker
    # Ray Train uploads no checkpoint of ours, so nothing but its controller, beside this driver, needs this folder: it
    # is neither kept nor shared by the nodes, and an outage of the storage does not reach it.
    scratch = Scratch("train")
    make: Any = _LeanTrainer
    trainer = make(
        loop,
        scaling_config=_train.ScalingConfig(
            num_workers=planned.workers, use_gpu=bool(planned.gpus_per_worker), resources_per_worker=resources
        ),
        run_config=_train.RunConfig(
            # Unique per attempt: Ray Train resumes by name, and our own checkpoints are the only truth.
            name=f"trials/{planned.key}/{assignment.lease:06d}-{time.time_ns():x}",
            storage_path=str(scratch.path),
            failure_config=_train.FailureConfig(max_failures=max_failures),
            callbacks=[Judge()],
            logging_config=_train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        return dict(trainer.fit().return_value or {}), None
    except Exception as error:
        rank, reason = explain(error)
        storage = Storage(assignment.settings.storage)
        tail = read_tail(storage, planned.key, rank)
        known = (Ledger(storage).progress(planned.key) or {}).get("metrics") or {}
        ending = f"\nlast lines of the log of worker {rank}:\n{tail}" if tail else ""
        return dict(known), f"{planned.spec.cell.name}: {reason}{ending}"
    finally:
        scratch.close()
