"""What every worker of a gang does with the workload's events; rank 0 also records, reports and keeps checkpoints."""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from orchestrator.background import Courier
from orchestrator.checkpoints import Checkpoint, CheckpointStore
from orchestrator.companion import WARNING_TAG, open_companion
from orchestrator.errors import LeaseLostError, StopAskedError, StorageError, reason_of
from orchestrator.exhibits import picture_files
from orchestrator.keeper import Keeper
from orchestrator.last_words import keep_evidence, tell_of_hang
from orchestrator.ledger import Ledger
from orchestrator.notice import notice_given
from orchestrator.patience import PATIENCE, patiently
from orchestrator.progress import ProgressWriter
from orchestrator.resume import RayGang, same_checkpoint
from orchestrator.runstore import probe
from orchestrator.scratch import Scratch, sweep_scratch
from orchestrator.settings import Settings
from orchestrator.shown import Curves, table_copies
from orchestrator.storage import Storage
from orchestrator.triallog import TrialLog
from orchestrator.undelivered import Undelivered
from orchestrator.watchdog import Watchdog
from orchestrator.workload import Event, Json, Spec, Workload

__all__ = ["Assignment", "train_on_worker"]

_log = logging.getLogger(__name__)
_Value = TypeVar("_Value")

SHIP_SECONDS: Final = 60.0
"""Seconds between two uploads of the logs to the tracking store."""
VALIDATIONS_KEPT: Final = 32
"""In the progress document: the last ones, for whoever decides by them (a search) and looks only now and then."""
STOP_UPLOAD_SECONDS: Final = 50.0
"""What the upload of a checkpoint may take after a stop or a notice: about what launcher and clouds wait."""

_WHY: Final[Mapping[str, str]] = {
    "stopped": "as was asked for",
    "regrouped": "as there is room for more workers",
    "preempted": "since its machine will be taken away",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What the trial's driver tells its workers. Holds no secret."""

    spec: Spec
    key: str
    settings: Settings
    run_id: str
    start_ms: int
    """Start of the tracking run, milliseconds since the epoch."""
    workers: int
    cpus: int
    """CPU cores that one worker may use."""
    owner: str
    """Who holds the trial's lease."""
    lease: int
    telemetry_seconds: float = 60.0
    """Seconds between two samples of the machine."""
    may_grow: bool = False
    """The gang could be larger: it may be asked to make way for one that is."""
    share: int = 1
    """Trials that share this one's GPU, itself included."""
    storage_seconds: float = PATIENCE
    """Seconds without storage that end the training."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay, beside the best."""
    hang_seconds: float = 300.0
    """Seconds without an event of the training that are never taken for a hang."""
    start_seconds: float = 3600.0
    """The same before the first event, and between two of an evaluation."""
    models: bool = True
    """The best checkpoint becomes a registered model."""


class _Desk:
    """What rank 0 does beside training. Other ranks have none."""

    def __init__(self, job: Assignment, log: TrialLog) -> None:
        from orchestrator.recorder import Recorder
        from orchestrator.tracking import Tracker

        storage = Storage(job.settings.storage)
        self._job, self._log, self._storage = job, log, storage
        self.tracker = Tracker(job.settings.tracking, job.settings.benchmark, artifacts=job.settings.artifacts)
        self.undelivered = Undelivered(storage, job.key)
        self.recorder = Recorder(job.settings.tracking, job.run_id, job.start_ms, undelivered=self.undelivered)
        self.courier = Courier("artifacts")
        self.courier.send("attempts", lambda: self.tracker.note_attempt(job.run_id, socket.gethostname(), job.workers))
        info = {"run_id": job.run_id, "workers": job.workers, "host": socket.gethostname(), "owner": job.owner}
        ledger = Ledger(storage)

        def guard() -> None:
            # Within one lease, too: a later attempt may have begun elsewhere while this machine was cut off.
            self.progress.require_lease()
            ledger.leases.require(job.key, job.lease)

        store = CheckpointStore(storage, job.key, guard=guard)
        self.keeper = Keeper(store, info, patience=job.storage_seconds, keep_last=job.keep_checkpoints)
        self._next_ship = time.monotonic() + SHIP_SECONDS
        self.progress = ProgressWriter(ledger, job, self._beat)
        self._validated: list[Json] = []
        self._curves = Curves(storage, job.key)
        self._companion = open_companion(
            storage, job.key, run=self.tracker, run_id=job.run_id, record=self.recorder.record, tell=self._tag
        )
        if self._companion is not None:
            self.progress.update(warning=self._companion.warning)

    def wish(self) -> str | None:
        """What the training is answered; raises LeaseLostError when it is not this gang's any more."""
        self.progress.require_lease()
        return "stop" if self.progress.stop_asked or self.progress.regroup_asked else None

    def resumed(self, step: int, info: Mapping[str, Json]) -> None:
        """Go on with the records of an attempt before, after the step of its checkpoint; 0: from the beginning."""
        self.recorder.restore(info.get("unsent", ()))
        self.progress.resumed(step, float(info.get("saved", 0.0)))
        self._curves.resume(step)

    def train_event(self, event: Event) -> None:
        """Record one event of the training."""
        self.progress.require_lease()
        self.keeper.check()
        self.recorder.record(event.metrics, event.step)
        self.progress.update(step=event.step, total=event.total, metrics=_floats(event.metrics))
        self._send_artifacts(event)
        self._curves.see(event.metrics, event.step)
        if event.kind == "validated":
            self._show("curves.json", self._curves.snapshot())
            self._validated = [*self._validated, [event.step, _floats(event.metrics)]][-VALIDATIONS_KEPT:]
            self.progress.update(validated=self._validated)
        if self._companion is not None:
            self._companion.see(event.metrics, event.step, event.total)
        if event.save is not None:
            # The next attempt records again what this one loses if it is killed: the curve has no gap there.
            info = {"unsent": self.recorder.unsent(), "saved": time.time()}
            self.keeper.take(event.save, event.step, _floats(event.metrics), best=event.best, info=info)

    def evaluation_event(self, event: Event) -> None:
        """Show how far the final evaluation is, and keep its pictures and tables."""
        self.progress.require_lease()
        if self.progress.stop_asked:
            raise StopAskedError(f"stopped after {event.step} of {event.total} of the evaluation, as was asked for")
        self.progress.update(phase="evaluating", evaluated=event.step, to_evaluate=event.total)
        self._send_artifacts(event)

    def finish(
        self, workload: Workload, step: int, metrics: Mapping[str, float], last: Checkpoint, folder: Path
    ) -> None:
        """Record the final scores, show the last and best checkpoint in the tracking store, and register a model."""
        self.recorder.record(metrics, step)
        self.progress.update(phase="evaluated", metrics=_floats(metrics))
        self._curves.see(metrics, step)
        store = CheckpointStore(Storage(self._job.settings.storage), self._job.key)
        # A checkpoint may have hundreds of megabytes: the one that was evaluated is here already, and often the best.
        best = last if last.best else self._patiently(lambda: store.best(folder / "best"))
        for name, checkpoint in (("last", last), ("best", best)):
            if checkpoint is not None:
                later = partial(self.undelivered.want_checkpoint, name)
                self._send(f"checkpoints/{name}", checkpoint.path, otherwise=later)
        if self._job.models:
            self._register(workload, best or last, folder / "model")

    def _register(self, workload: Workload, checkpoint: Checkpoint, folder: Path) -> None:
        """Make a model of a checkpoint now, as only a worker can, and register it in the background.

        A finished trial does not fail for the lack of it.
        """
        from orchestrator.registry import packaged, register

        job = self._job
        try:
            if not packaged(workload, job.spec, job.key, checkpoint.path, job.settings, folder):
                return
        except Exception as error:
            self._log.note(f"no model of the checkpoint of step {checkpoint.step} was made: {reason_of(error)}")
            return
        later = partial(self.undelivered.put_model, folder)
        self.courier.send("model", lambda: register(self.tracker, job.run_id, folder), later)

    def close(self) -> None:
        """Deliver everything; what the tracking store does not take within its time is kept in storage for later."""
        self.keeper.close()
        self.recorder.close()
        if self._curves.seen:
            self._show("curves.json", self._curves.snapshot())
        self._send_logs()
        self.courier.close()
        self.progress.close()

    def _patiently(self, job: Callable[[], _Value]) -> _Value:
        what = f"worker 0 of trial {self._job.key}"
        return patiently(what, job, say=self._log.note, seconds=self._job.storage_seconds)

    def _tag(self, tags: Mapping[str, str]) -> None:
        if WARNING_TAG in tags:
            self.progress.update(warning=tags[WARNING_TAG])
            self._log.note(tags[WARNING_TAG] or "no longer far below the reference")
        self.courier.send("tags", lambda: self.tracker.set_tags(self._job.run_id, tags))

    def _beat(self) -> None:
        self._log.ship()
        if time.monotonic() >= self._next_ship:
            self._next_ship = time.monotonic() + SHIP_SECONDS
            self._send_logs()

    def _send_logs(self) -> None:
        for name in self._log.names:
            self._send(f"logs/{name}", self._log.folder / name)

    def _send_artifacts(self, event: Event) -> None:
        files = dict(event.artifacts)
        stamp = self._job.start_ms + event.step
        for name, png in event.pictures.items():
            files |= picture_files(name, png, run_id=self._job.run_id, step=event.step, timestamp_ms=stamp)
        for path, content in files.items():
            self._send(path, content, otherwise=partial(self.undelivered.put_artifact, path, content))
        for name, content in table_copies(event.artifacts).items():
            self._show(name, content)

    def _show(self, name: str, content: bytes) -> None:
        """Keep a small file for reports. Not before the training goes on: storage may be slow or away."""
        key = self._job.key

        def keep() -> None:
            self.progress.require_lease()
            self._storage.write_bytes(f"trials/{key}/shown/{name}", content)

        self.courier.send(f"shown/{name}", keep, otherwise=keep)

    def _send(self, path: str, content: bytes | Path, *, otherwise: Callable[[], object] | None = None) -> None:
        run_id = self._job.run_id

        def deliver() -> None:
            probe(self.tracker.uri)
            self.tracker.log_artifact(run_id, content, path)

        self.courier.send(path, deliver, otherwise)


def train_on_worker(workload: Workload, job: Assignment) -> dict[str, Json] | None:
    """Train, then evaluate the saved checkpoint; runs on every worker of a gang inside Ray Train.

    Returns on rank 0 how it ended, None elsewhere: `end` is finished, or stopped, preempted or regrouped (with a
    checkpoint of the very step), `metrics` the final ones or the last.
    """
    import ray.train

    context = ray.train.get_context()
    rank = context.get_world_rank()
    packages = ("orchestrator", *getattr(workload, "packages", (type(workload).__module__.split(".")[0],)))
    log = TrialLog(Storage(job.settings.storage), job.key, rank, packages)
    if context.get_local_rank() == 0:
        sweep_scratch()  # what killed workers left on a node where no driver ever runs
    scratch = Scratch("trial")
    folder = scratch.path
    desk: _Desk | None = None
    stacks, trial = f"stacks-rank{rank}.txt", Storage(job.settings.storage).child(f"trials/{job.key}")
    watchdog = Watchdog(
        folder / stacks,
        lambda sentence: tell_of_hang(trial, rank, log, folder / stacks, sentence),
        least=job.hang_seconds,
        first=job.start_seconds,
    )
    closers: list[Callable[[], None]] = [watchdog.close]
    try:
        log.note(f"worker {rank} of {job.workers} starts on {socket.gethostname()}", pid=os.getpid(), trial=job.key)
        if rank == 0:
            desk = _Desk(job, log)
            closers.append(desk.close)
        if context.get_local_rank() == 0:
            closers.insert(0, _start_telemetry(job, context.get_node_rank(), desk))
        return _train_and_evaluate(workload, job, desk, log, folder, watchdog)
    except LeaseLostError as error:
        log.retire(str(error))
        raise
    except StopAskedError as error:
        log.note(str(error))
        raise
    except BaseException as error:
        log.note("".join(traceback.format_exception(error)))
        keep_evidence(trial, rank, error)
        raise
    finally:
        for close in closers:
            close()
        log.close()
        scratch.close()


def _train_and_evaluate(
    workload: Workload, job: Assignment, desk: _Desk | None, log: TrialLog, folder: Path, watchdog: Watchdog
) -> dict[str, Json] | None:
    resume = _same_checkpoint(job, folder / "resume", log)
    if resume is not None:
        log.note(f"goes on from the checkpoint of step {resume.step}")
    if desk is not None:
        desk.resumed(*(0, {}) if resume is None else (resume.step, resume.info))
    step, wish = _train(workload, job, desk, log, resume, watchdog)
    watchdog.rest()
    if wish == "stop":
        return None if desk is None else _stopped(desk, log, step)
    if desk is not None:
        desk.keeper.finish()
    last = _same_checkpoint(job, folder / "final", log)
    if last is None or last.step < step:
        # Never the scores of an earlier state: the next attempt trains the rest again.
        found = "none" if last is None else f"that of step {last.step}"
        raise RuntimeError(f"trial {job.key}: no sound checkpoint of step {step} to evaluate, but {found}")
    metrics = _evaluate(workload, job, desk, log, last, watchdog)
    watchdog.rest()
    if desk is None:
        return None
    desk.finish(workload, step, metrics, last, folder)
    return {"end": "finished", "metrics": metrics}


def _train(
    workload: Workload,
    job: Assignment,
    desk: _Desk | None,
    log: TrialLog,
    resume: Checkpoint | None,
    watchdog: Watchdog,
) -> tuple[int, str]:
    """Train to the end, or to a stop that was asked for; return the step, and the wish that ended it or nothing."""
    import ray.train

    training = workload.train(job.spec, None if resume is None else resume.path, cpus=job.cpus)
    step, wish = 0 if resume is None else resume.step, ""
    answer: str | None = None
    watchdog.allow_long()
    while True:
        try:
            event = training.send(answer)
        except StopIteration:
            return step, wish
        step = event.step
        watchdog.event(step, is_step=event.kind == "step")
        if event.kind != "step":
            wish = event.wish or wish
            log.event(event, "train")
            if desk is not None:
                desk.train_event(event)
            if event.kind == "validated":
                # All ranks yield the same events, so all report equally often; progress is too frequent for Ray Train.
                ray.train.report({**_floats(event.metrics), "step": event.step})
        answer = "stop" if notice_given() else None if desk is None else desk.wish()


def _stopped(desk: _Desk, log: TrialLog, step: int) -> dict[str, Json]:
    """Bring the checkpoint of a stop to storage, and tell who asked for it."""
    asked = {"stopped": desk.progress.stop_asked, "regrouped": desk.progress.regroup_asked, "preempted": True}
    end = next(name for name, is_so in asked.items() if is_so)
    why = _WHY[end]
    try:
        desk.keeper.finish(STOP_UPLOAD_SECONDS)
        log.note(f"stops at step {step}, {why}, with a checkpoint of it")
    except StorageError as error:
        log.note(f"stops at step {step}, {why}, but its checkpoint could not be stored: {error}")
    return {"end": end, "metrics": desk.progress.metrics}


def _evaluate(
    workload: Workload, job: Assignment, desk: _Desk | None, log: TrialLog, last: Checkpoint, watchdog: Watchdog
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    watchdog.allow_long()
    for event in workload.evaluate(job.spec, last.path, cpus=job.cpus):
        watchdog.allow_long()
        log.event(event, "evaluate")
        metrics |= _floats(event.metrics)
        if desk is not None:
            desk.evaluation_event(event)
    return metrics


def _same_checkpoint(job: Assignment, folder: Path, log: TrialLog) -> Checkpoint | None:
    store = CheckpointStore(Storage(job.settings.storage), job.key, log.note)
    return same_checkpoint(store, folder, RayGang(), say=log.note, patience=job.storage_seconds)


def _start_telemetry(job: Assignment, node: int, desk: _Desk | None) -> Callable[[], None]:
    """Sample this node; returns what ends it. Rank 0's node uses rank 0's recorder, others have their own."""
    from orchestrator.telemetry import Sampler

    own = None if desk is not None else _node_recorder(job)
    recorder: Any = desk.recorder if desk is not None else own

    def sink(metrics: Mapping[str, float], seconds: int) -> None:
        recorder.record(metrics, seconds, timestamp_ms=job.start_ms + 1000 * seconds)
        if desk is not None:
            desk.progress.gpu_load(metrics.get(f"system/node{node}/gpu_percent"))

    sampler = Sampler(sink, node=node, start_ms=job.start_ms, interval=job.telemetry_seconds)

    def close() -> None:
        sampler.close()
        if own is not None:
            own.close()

    return close


def _node_recorder(job: Assignment) -> Any:
    from orchestrator.recorder import Recorder

    undelivered = Undelivered(Storage(job.settings.storage), job.key)
    return Recorder(job.settings.tracking, job.run_id, job.start_ms, undelivered=undelivered, adopt=False)


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
