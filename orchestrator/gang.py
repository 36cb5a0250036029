"""The gang of one trial: a Ray Train run whose workers come and go together."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import WorkerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from orchestrator.deaths import DeathBook
from orchestrator.elastic import Growth, Ladder, largest_now
from orchestrator.errors import StorageError
from orchestrator.failures import CLASSES
from orchestrator.interface import choose_interface
from orchestrator.judge import Judge, Verdict, explain, too_often
from orchestrator.ledger import Ledger
from orchestrator.notice import listen
from orchestrator.places import PLACE_SECONDS, free_places, named_group
from orchestrator.plan import PlannedTrial
from orchestrator.raystart import LOCAL
from orchestrator.rendezvous import FileRendezvous
from orchestrator.scratch import Scratch
from orchestrator.spares import SPARES, worker_environment
from orchestrator.storage import Storage
from orchestrator.triallog import read_tail
from orchestrator.worker import Assignment, train_on_worker
from orchestrator.workload import Workload

__all__ = ["GangEnd", "run_gang"]

# The annotations of the installed Ray still describe Train V1.
_train: Any = ray.train

_log = logging.getLogger(__name__)

_ENDS: Final[Mapping[str, str | None]] = {"finished": None, "stopped": "stopped"}
_UNBEGUN: Final = ("infeasible", "stopped")
"""Failures that no log tells of."""

if TYPE_CHECKING:
    _Base = object
else:
    _Base = TorchTrainer


class _Listener(WorkerCallback):
    """Runs in the main thread of every worker, where alone a signal can be taken, before its process group is made."""

    def after_init_train_context(self) -> None:
        listen()
        choose_interface()


class _Successors(WorkerGroupCallback):
    """Runs in the trial's driver: sees to the processes of the gang that follows."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        SPARES.order_later(len(worker_group), self._modules)


class _LocalPolicy(FixedScalingPolicy):
    """Asks nobody for machines: a local Ray has its one, and the actor that is asked is one more process."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing; so there is nothing to give back either."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""


class _LeanTrainer(_Base):
    """Leaves out what costs a process each, seconds at every start, and does nothing for us; adds a listener."""

    group: type[WorkerGroup]
    """Its workers."""
    ahead: Sequence[str]
    """Modules of the workload that they import before anything else."""

    def _create_default_callbacks(self) -> list[Any]:
        # Ray Data is not used. What a cleaner of placement groups would free, `free_places` does, and a job's end.
        idle = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [
            *(callback for callback in callbacks if type(callback).__name__ not in idle),
            _Listener(),
            _Successors(self.ahead),
        ]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        """Run Ray Train's controller here, in the trial's driver, instead of in a process of its own.

        Neither is of use without the other, and the driver has all imported that a controller needs.
        """
        if os.environ.get(LOCAL):
            parts["scaling_policy"] = _LocalPolicy(parts["scaling_policy"].scaling_config)
        controller: Any = type("GangController", (TrainController,), {"worker_group_cls": self.group})
        running = controller(**parts)
        asyncio.run(running.run())
        return running.get_result()


@dataclass(frozen=True, kw_only=True, slots=True)
class GangEnd:
    """How the last attempt of a gang ended."""

    state: Literal["finished", "failed", "stopped"]
    metrics: Mapping[str, float]
    """Final metrics; the last known ones of a trial that did not finish."""

    failure: str | None = None
    """Class of failure, see `orchestrator.failures`; None: finished."""

    error: str | None = None
    """First line: what happened; then the end of the log."""


def run_gang(
    workload: Workload,
    assignment: Assignment,
    planned: PlannedTrial,
    *,
    max_failures: int,
    infeasible_seconds: float,
    resize_seconds: float,
) -> GangEnd:
    """Train and evaluate on a gang, start it again as its failures deserve, and return how it ended.

    `max_failures`: deaths in a row without a new checkpoint that are followed by a restart. `infeasible_seconds`: how
    long a gang may wait for its place. `resize_seconds`: how long one that may have several sizes waits for its place
    before it takes a smaller one, and how long there must be room before it takes a larger one. Ray Train restarts a
    gang by itself; what it does not retry is retried here.
    """
    storage = Storage(assignment.settings.storage)
    ledger, book = Ledger(storage), DeathBook(storage, planned.key, assignment.owner)
    patience = resize_seconds if planned.fewer else _place_seconds()
    size, waited = planned.workers, 0.0
    while True:
        began, before = time.monotonic(), _begun(ledger, assignment)
        try:
            end, room = _attempt(workload, assignment, planned, size, max_failures, patience)
        except Exception as error:
            verdict = explain(error)
            _log.warning("trial %s: attempt ended: %s: %s", planned.key, verdict.failure, verdict.reason)
        else:
            if end["end"] in _ENDS:
                return GangEnd(state=end["end"], metrics=end["metrics"], failure=_ENDS[end["end"]])
            waited = 0.0
            # What is taken away may be replaced at once: the full size is tried first.
            size = room if end["end"] == "regrouped" else planned.workers
            continue
        if verdict.failure == "waiting":
            # Ray Train may have trained, and have waited since it lost a worker.
            same = _begun(ledger, assignment) == before
            waited = waited + time.monotonic() - began if same else patience
            if _is_stopped(ledger, assignment):
                return _failed(ledger, planned, Verdict(failure="stopped", rank=0, reason="stopped before it started"))
            if waited >= infeasible_seconds:
                reason = _lacking(planned, waited)
                return _failed(ledger, planned, Verdict(failure="infeasible", rank=0, reason=reason))
            if planned.fewer:
                # Where none finds a place, the full size shows an autoscaler what is missing.
                size = largest_now(planned.key, _needs(planned), planned.sizes) or planned.workers
            continue
        waited = 0.0
        policy = CLASSES[verdict.failure].policy
        if verdict.final or policy == "never":
            return _failed(ledger, planned, verdict)
        final = None if policy == "always" else too_often(book, verdict, max_failures)
        if final is not None:
            return _failed(ledger, planned, dataclasses.replace(verdict, reason=final))


def _attempt(
    workload: Workload, assignment: Assignment, planned: PlannedTrial, size: int, max_failures: int, patience: float
) -> tuple[dict[str, Any], int]:
    """Run Ray Train once with a gang of this size; return what rank 0 returned, and the size there is room for."""
    job = dataclasses.replace(assignment, workers=size, may_grow=size < planned.workers)
    free_places(planned.key)  # of an attempt before, whose driver was killed
    try:
        if not job.may_grow:
            return _fit(workload, job, planned, max_failures, patience), size
        sizes = [number for number in planned.sizes if number >= size]
        ledger = Ledger(Storage(assignment.settings.storage))
        with Growth(ledger, job, Ladder(planned.key, _needs(planned), sizes), patience) as growth:
            return _fit(workload, job, planned, max_failures, patience), growth.size
    finally:
        free_places(planned.key)


def _needs(planned: PlannedTrial) -> dict[str, float]:
    """The resources of one worker."""
    gpus = {"GPU": planned.gpus_per_worker} if planned.gpus_per_worker else {}
    return {"CPU": float(planned.cpus_per_worker), **gpus}


def _fit(
    workload: Workload, assignment: Assignment, planned: PlannedTrial, max_failures: int, patience: float
) -> dict[str, Any]:
    """Run Ray Train once; return what rank 0 returned. Ray Train itself restarts a gang that lost a worker."""

    def loop() -> dict[str, Any] | None:
        return train_on_worker(workload, assignment)

    storage = assignment.settings.storage
    # Ray Train uploads no checkpoint of ours, so nothing but its controller, in this process, needs this folder: it is
    # neither kept nor shared by the nodes, and an outage of the storage does not reach it.
    scratch = Scratch("train")
    ahead: Sequence[str] = getattr(workload, "ahead", ())
    make: Any = _LeanTrainer
    try:
        trainer = make(
            loop,
            torch_config=FileRendezvous(folder=str(scratch.path)) if os.environ.get(LOCAL) else None,
            scaling_config=_train.ScalingConfig(
                num_workers=assignment.workers,
                use_gpu=bool(planned.gpus_per_worker),
                resources_per_worker=_needs(planned),
            ),
            run_config=_train.RunConfig(
                # Unique per attempt: Ray Train resumes by name, and our own checkpoints are the only truth.
                name=f"trials/{planned.key}/{assignment.lease:06d}-{time.time_ns():x}",
                storage_path=str(scratch.path),
                # The judge decides on dead workers, and the loop around this on gangs that could not be placed.
                failure_config=_train.FailureConfig(
                    max_failures=-1, max_preemption_failures=-1, controller_failure_limit=0
                ),
                callbacks=[Judge(storage, planned.key, assignment.owner, max_failures)],
                logging_config=_train.LoggingConfig(log_level="ERROR"),
                worker_runtime_env={"env_vars": worker_environment(ahead)},
            ),
        )
        trainer.group, trainer.ahead = named_group(planned.key, patience), ahead
        return dict(trainer.fit().return_value)
    finally:
        SPARES.cancel()
        scratch.close()


def _failed(ledger: Ledger, planned: PlannedTrial, verdict: Verdict) -> GangEnd:
    tail, progress = "", {}
    try:
        progress = dict(ledger.progress(planned.key) or {})
        tail = "" if verdict.failure in _UNBEGUN else read_tail(ledger.storage, planned.key, verdict.rank)
    except StorageError as error:
        _log.warning("trial %s: its log cannot be read: %s", planned.key, error)
    known, reason = dict(progress.get("metrics") or {}), verdict.reason
    if verdict.failure == "stopped":
        return GangEnd(state="stopped", metrics=known, failure="stopped")
    if verdict.failure == "out-of-memory" and progress.get("memory_gb"):
        reason += f" (worker 0 had used up to {progress['memory_gb']} GB of its machine's memory)"
    ending = f"\nlast lines of the log of worker {verdict.rank}:\n{tail}" if tail else ""
    error_text = f"{planned.spec.cell.name}: {reason}{ending}"
    return GangEnd(state="failed", metrics=known, failure=verdict.failure, error=error_text)


def _begun(ledger: Ledger, assignment: Assignment) -> int:
    """How many attempts of a gang have begun to work under this lease."""
    try:
        progress = ledger.progress(assignment.key) or {}
    except StorageError:
        return 0
    return int(progress.get("attempt", 0)) if progress.get("lease") == assignment.lease else 0


def _is_stopped(ledger: Ledger, assignment: Assignment) -> bool:
    try:
        return ledger.stop_asked(assignment.key, assignment.lease)
    except StorageError:
        return False


def _place_seconds() -> float:
    return float(os.environ.get(PLACE_SECONDS, 60.0))


def _lacking(planned: PlannedTrial, waited: float) -> str:
    """What a gang asks for beside what the cluster has."""
    cluster: Any = ray
    total, free = cluster.cluster_resources(), cluster.available_resources()
    each = f"{planned.cpus_per_worker:g} CPUs"
    if planned.gpus_per_worker:
        each += f" and {planned.gpus_per_worker:g} GPUs"
    nodes = sum(bool(node["Alive"]) for node in cluster.nodes())
    has = ", ".join(f"{total.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in ("CPU", "GPU"))
    return (
        f"a gang of {planned.sizes[0]} with {each} each found no place for {waited:.0f} s; "
        f"the cluster has {has} on {nodes} live nodes"
    )
