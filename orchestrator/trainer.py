"""One trial on Ray Train: its lease, its tracking run, its gang, its true end."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeVar

from orchestrator.checkpoints import CheckpointStore
from orchestrator.deaths import DeathBook
from orchestrator.errors import LeaseLostError, StorageError, TrackingError
from orchestrator.failures import advise
from orchestrator.ledger import Ledger
from orchestrator.owners import process_identity
from orchestrator.patience import PATIENCE, patiently
from orchestrator.plan import PlannedTrial
from orchestrator.runs import close_run, ending_of, wait_for_run
from orchestrator.scratch import sweep_scratch
from orchestrator.search import Halving
from orchestrator.settings import Settings
from orchestrator.spares import SPARES
from orchestrator.storage import Storage
from orchestrator.sweep import sweep_trial
from orchestrator.tracking import Tracker
from orchestrator.worker import Assignment
from orchestrator.workload import Json, Workload

__all__ = ["RunOptions", "TrialOutcome", "close_trial", "run_trial"]

HEARTBEAT_SECONDS: Final = 15.0
"""Between two signs of life of a trial's driver; a lease without any for a minute may be taken over."""

_log = logging.getLogger(__name__)
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How trials are run. Nothing here changes a trial's numbers."""

    provenance: Mapping[str, Json] = field(default_factory=dict)
    """`provenance.capture()` of the machine that launches; never captured on a worker."""

    patch: str = ""
    """How the code of this launch differs from the commit in `provenance`, as `git diff` says it."""

    owner: str = ""
    """Who launches: host, process and its start; leases carry it. Empty: this process."""

    max_failures: int = 3
    """Deaths in a row, without a new checkpoint in between, that are followed by a restart."""

    hang_seconds: float = 300.0
    """Seconds without an event of a training, if they are 20 usual steps too, after which a worker ends itself."""

    start_seconds: float = 3600.0
    """The same before the first event of an attempt (data are fetched then), and in the final evaluation."""

    infeasible_seconds: float = 3600.0
    """How long a gang that finds no place in the cluster is waited for before its trial ends."""

    resize_seconds: float = 60.0
    """Of a gang that may have several sizes: how long workers are missing before it goes on with fewer, and how long
    there is room for more before it goes on with them."""

    stop_seconds: float = 60.0
    """What running trials get to make a checkpoint after Ctrl-C, before they are stopped without."""

    telemetry_seconds: float = 60.0
    """Seconds between two samples of a node's CPU, memory and GPUs."""

    storage_seconds: float = PATIENCE
    """Seconds that a training goes on while the storage takes no checkpoint; then it ends, and can be resumed."""

    keep_checkpoints: int = 2
    """Newest checkpoints that stay in the storage, beside the best; at least 1."""

    models: bool = True
    """The best checkpoint of every trial becomes a registered model."""

    address: str | None = None
    """Address of a Ray cluster; None: RAY_ADDRESS, and without that a local Ray for this launch alone."""

    halving: Halving | None = None
    """When samples of a search are stopped early; None: never."""

    poll_seconds: float | None = None
    """Seconds between two looks at the ledger; None: 1 for a local storage, 5 for a remote one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialOutcome:
    """How a trial of a launch ended."""

    key: str
    cell: str
    state: Literal["finished", "failed", "stopped", "skipped", "blocked"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None
    error: str | None = None
    """First line: what happened; then the last lines of the log."""
    failure: str | None = None
    """Class of failure, see `orchestrator.failures`."""
    advice: str | None = None
    """What to do about it, in one sentence."""
    seconds: float = 0.0


def run_trial(
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    options: RunOptions | None = None,
) -> TrialOutcome:
    """Train and evaluate one planned trial on a gang of Ray workers, and write how it ended to ledger and tracking.

    Ray must be initialised. A failure is an outcome, not an exception.
    """
    options = options or RunOptions()
    options = dataclasses.replace(options, owner=options.owner or process_identity())
    ledger, what = Ledger(Storage(settings.storage)), f"the driver of trial {planned.key}"
    before, lease = patiently(
        what,
        lambda: (ledger.progress(planned.key) or {}, _claimed(ledger, planned, options)),
        say=_log.warning,
        seconds=options.storage_seconds,
    )
    if isinstance(lease, TrialOutcome):
        return lease
    try:
        return _carried_out(workload, planned, settings, options, before, lease)
    except LeaseLostError:
        # Run, result and lease are the other's now.
        return _skipped(planned, "another launch has taken it over")


def _carried_out(
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    options: RunOptions,
    before: Mapping[str, Json],
    lease: int,
) -> TrialOutcome:
    """Train and evaluate a trial under a lease; `before` is its progress so far. Raises LeaseLostError."""
    cell, key, began = planned.spec.cell.name, planned.key, time.time()
    ledger = Ledger(Storage(settings.storage))

    def patient(job: Callable[[], _Value]) -> _Value:
        what = f"the driver of trial {key}"
        return patiently(what, job, say=_log.warning, seconds=options.storage_seconds)

    failed = TrialOutcome(key=key, cell=cell, state="failed", run_id=before.get("run_id"))
    if before.get("owner") == options.owner:
        # A driver of this launch had begun already, and has died.
        deaths = DeathBook(ledger.storage, key, options.owner).count()
        if deaths.row > options.max_failures:
            error = f"{cell}: its driver died; that was death {deaths.row} in a row without a new checkpoint"
            failed = dataclasses.replace(failed, error=error, failure="worker-lost")
            return close_trial(workload, planned, settings, failed, options, lease=lease)
    tracker = Tracker(settings.tracking, settings.benchmark, artifacts=settings.artifacts)
    SPARES.order(planned.workers, getattr(workload, "ahead", ()))
    try:
        with _renewing(ledger, key, options.owner, lease):
            waiting = _waiting(ledger, planned, options, lease)
            # Who holds the first lease of a trial has taken it over from nobody.
            run_id, start_ms = wait_for_run(
                tracker, workload, planned, settings, options.provenance, waiting, patch=options.patch,
                contested=lease > 1,
            )  # fmt: skip
    except TrackingError as problem:
        error, seconds = f"{cell}: {problem}", time.time() - began
        failed = dataclasses.replace(failed, error=error, failure="tracking", seconds=seconds)
        return close_trial(workload, planned, settings, failed, options, lease=lease)
    assignment = Assignment(
        spec=planned.spec,
        key=key,
        settings=settings,
        run_id=run_id,
        start_ms=start_ms,
        workers=planned.workers,
        cpus=planned.cpus_per_worker,
        owner=options.owner,
        lease=lease,
        telemetry_seconds=options.telemetry_seconds,
        share=planned.share,
        storage_seconds=options.storage_seconds,
        keep_checkpoints=options.keep_checkpoints,
        hang_seconds=options.hang_seconds,
        start_seconds=options.start_seconds,
        models=options.models,
    )
    start = _start(assignment)
    patient(lambda: ledger.write_progress(key, start, lease=assignment.lease))
    with _renewing(ledger, key, options.owner, lease, partial(_freshen, ledger, assignment, start)) as lost:
        # Ray Train and torch take seconds to import, which planning and skipping must not pay.
        from orchestrator.gang import run_gang

        end = run_gang(
            workload,
            assignment,
            planned,
            max_failures=options.max_failures,
            infeasible_seconds=options.infeasible_seconds,
            resize_seconds=options.resize_seconds,
        )
    if lost.is_set() or not patient(lambda: ledger.holds(key, assignment.lease)):
        raise LeaseLostError(f"another launch has taken over trial {key}")
    outcome = TrialOutcome(
        key=key,
        cell=cell,
        state=end.state,
        metrics=end.metrics,
        run_id=run_id,
        error=patient(lambda: ledger.stop_reason(key, assignment.lease)) if end.state == "stopped" else end.error,
        failure=end.failure,
        seconds=time.time() - began,
    )
    return close_trial(workload, planned, settings, outcome, options, lease=lease, tracker=tracker)


def _claimed(ledger: Ledger, planned: PlannedTrial, options: RunOptions) -> int | TrialOutcome:
    """Take a trial's lease; returns its number, or the outcome when there is nothing to train; raises StorageError."""
    cell, key = planned.spec.cell.name, planned.key
    last = ledger.leases.last(key)
    lease = ledger.claim(key, options.owner)
    if lease is None:
        return _skipped(planned, "another launch is training it")
    result = ledger.result(key) or {}
    if result.get("state") == "finished":
        # Since this launch was planned. Its result was there before its lease was given back.
        ledger.release(key, options.owner, lease)
        return _skipped(planned, "another launch has finished it")
    mine = last is not None and last.owner == options.owner and not last.released
    if mine and last is not None and result.get("lease") == last.number:
        # An earlier driver of this launch has written how the trial ended, and died before it gave the lease back.
        ledger.release(key, options.owner, lease)
        return TrialOutcome(key=key, cell=cell, state=result["state"], metrics=result.get("metrics") or {})
    ledger.write_spec(key, planned.spec)
    return lease


def _skipped(planned: PlannedTrial, why: str) -> TrialOutcome:
    return TrialOutcome(key=planned.key, cell=planned.spec.cell.name, state="skipped", error=why)


def close_trial(
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    outcome: TrialOutcome,
    options: RunOptions,
    *,
    lease: int,
    tracker: Tracker | None = None,
    patience: float | None = None,
) -> TrialOutcome:
    """Write how a trial ended: tracking run (status, published numbers, all logs), ledger result, lease given back.

    Returns the outcome with the advice that belongs to its failure. The ledger is written even when the tracking store
    is away; the result then says so under `untracked`. A storage that is away is waited for, `patience` seconds (None:
    as long as a training); the lease is kept meanwhile.
    """
    storage = Storage(settings.storage)
    ledger = Ledger(storage)
    seconds = options.storage_seconds if patience is None else patience

    def patient(job: Callable[[], _Value]) -> _Value:
        return patiently(f"the end of trial {planned.key}", job, say=_log.warning, seconds=seconds)

    if outcome.failure is not None:
        advice = advise(outcome.failure, _checkpoint_step(storage, planned.key))
        outcome = dataclasses.replace(outcome, advice=advice)
    result: dict[str, Json] = {
        "state": outcome.state,
        "cell": outcome.cell,
        "metrics": dict(outcome.metrics),
        "run_id": outcome.run_id,
        "error": outcome.error,
        "failure": outcome.failure,
        "advice": outcome.advice,
        "seconds": round(outcome.seconds, 3),
        "workers": planned.workers,
        "host": socket.gethostname(),
        "owner": options.owner,
        "not_comparable": list(planned.spec.not_comparable),
        "provenance": dict(options.provenance),
        "ended": ledger.clock(),
        "tracked": outcome.run_id is None,
        "untracked": None,
    }
    with _renewing(ledger, planned.key, options.owner, lease):
        if outcome.run_id is not None and outcome.state in ("finished", "failed", "stopped"):
            ending = ending_of(
                workload, planned, settings, options.provenance, outcome.state, outcome.metrics, outcome.error,
                outcome.advice,
            )  # fmt: skip
            tags = {"hrgrid.failure": outcome.failure or "", "hrgrid.advice": outcome.advice or ""}
            ending = dataclasses.replace(ending, tags={**ending.tags, **tags})
            result["ending"] = ending.document()
            # First: whoever is killed before the run was told leaves behind that it was not.
            patient(lambda: ledger.write_result(planned.key, result, lease=lease))
            tracker = tracker or Tracker(settings.tracking, settings.benchmark, artifacts=settings.artifacts)
            try:
                close_run(tracker, outcome.run_id, planned.key, ending, storage)
                result["tracked"] = True
            except Exception as error:
                result["untracked"] = f"{type(error).__name__}: {error}"
        patient(lambda: ledger.write_result(planned.key, result, lease=lease))
        _sweep(ledger, planned.key)
    patient(lambda: ledger.release(planned.key, options.owner, lease))
    return outcome


def _checkpoint_step(storage: Storage, key: str) -> int | None:
    """Step of the newest checkpoint, for advice."""
    try:
        return CheckpointStore(storage, key).latest_step()
    except StorageError:
        return None


def _sweep(ledger: Ledger, key: str) -> None:
    """Delete what dead attempts left of a trial that this launch still holds; a storage that is away stops nobody."""
    try:
        for sentence in [*sweep_trial(ledger, key), *map(str, sweep_scratch())]:
            _log.info("swept: %s", sentence)
    except StorageError as error:
        _log.info("trial %s is not swept: %s", key, error)


def _waiting(ledger: Ledger, planned: PlannedTrial, options: RunOptions, lease: int) -> Callable[[], None]:
    """Return what keeps a trial's lease while its driver waits for the tracking server; it raises LeaseLostError."""

    def wait() -> None:
        before = ledger.progress(planned.key) or {}
        document: dict[str, Json] = {
            "step": 0, "total": 0, "metrics": {}, "run_id": None, **before, "state": "running",
            "phase": "waiting for the tracking server", "cell": planned.spec.cell.name, "workers": planned.workers,
            "host": socket.gethostname(), "pid": os.getpid(), "owner": options.owner, "updated": ledger.clock(),
        }  # fmt: skip
        ledger.renew(planned.key, options.owner, lease)
        ledger.write_progress(planned.key, document, lease=lease)

    return wait


def _start(assignment: Assignment) -> dict[str, Json]:
    """The progress of a gang that has not begun."""
    return {
        "state": "running", "phase": "starting", "step": 0, "total": 0, "metrics": {},
        "cell": assignment.spec.cell.name, "run_id": assignment.run_id, "workers": assignment.workers,
        "host": socket.gethostname(), "pid": os.getpid(), "owner": assignment.owner, "lease": assignment.lease,
    }  # fmt: skip


def _freshen(ledger: Ledger, assignment: Assignment, start: Mapping[str, Json]) -> None:
    """Keep the progress fresh while no worker writes it: before the start, between two attempts."""
    progress: Mapping[str, Json] = ledger.progress(assignment.key) or start
    if ledger.clock() - float(progress.get("updated", 0.0)) > 2 * HEARTBEAT_SECONDS:
        waiting = f"waiting for {assignment.workers} worker" + "s" * (assignment.workers > 1)
        refreshed = {**progress, "phase": waiting, "updated": ledger.clock()}
        ledger.write_progress(assignment.key, refreshed, lease=assignment.lease)


@contextmanager
def _renewing(
    ledger: Ledger, key: str, owner: str, lease: int, also: Callable[[], object] = lambda: None
) -> Iterator[threading.Event]:
    """Keep a lease from a thread, and do what is to be done `also` as often.

    Yields an event that is set when the lease is lost; rank 0 of a gang sees that itself and ends the gang.
    """
    ended, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                if not ledger.renew(key, owner, lease):
                    lost.set()
                    return
                also()
            except LeaseLostError:
                lost.set()
                return
            except Exception as error:  # without this thread the trial would count as dead
                _log.warning("trial %s: no sign of life: %s: %s", key, type(error).__name__, error)

    thread = threading.Thread(target=beat, name="hrgrid-heartbeat", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        ended.set()
        thread.join(30.0)
