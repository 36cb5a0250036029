"""Repairs what a kill of a worker, a driver, a launcher or a head left behind. The ledger is the truth.

A trial that has ended but whose run was not told, a run that is RUNNING though nobody trains it, points and files that
wait for the server, a lease of a launcher that is gone. Without anything to repair, only the ledger's small files are
read and MLflow is not even imported: a result says by itself whether its run was told (`tracked`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import LeaseLostError, OrchestratorError, reason_of
from orchestrator.ledger import Ledger, State
from orchestrator.owners import is_alive, process_identity
from orchestrator.points import left_behind, spool_folder
from orchestrator.runstore import is_missing
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.takeover import free_dead_trials
from orchestrator.workload import Json

if TYPE_CHECKING:
    from orchestrator.tracking import TrackedRun, Tracker

__all__ = ["Repair", "reconcile"]

SILENT_SECONDS: Final = 600.0
"""A RUNNING run that no ledger here knows, without a sample of its machine for so long, is of a process that is gone;
samples are taken every minute."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """One thing that was wrong, and what was done."""

    key: str
    cell: str
    run_id: str | None
    problem: str
    """What was found."""

    done: str
    """What was done about it; of a dry run, what would be."""

    failed: bool = False
    """It could not be done; `done` says why."""

    def __str__(self) -> str:
        return f"{self.cell or self.key}: {self.problem}; {self.done}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What the ledger says of one trial."""

    key: str
    state: State
    progress: Mapping[str, Json]
    result: Mapping[str, Json]

    @property
    def cell(self) -> str:
        return str(self.result.get("cell") or self.progress.get("cell") or self.key)

    @property
    def run_id(self) -> str | None:
        source = self.result if self.state in ("finished", "failed", "stopped") else self.progress
        found: str | None = source.get("run_id") or self.progress.get("run_id")
        return found

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed", "stopped")


def reconcile(
    settings: Settings, keys: Sequence[str] | None = None, *, thorough: bool = False, dry_run: bool = False
) -> list[Repair]:
    """Repair trials (None: all of the benchmark) and their runs; return what was done, in order.

    `thorough` looks at every run of the benchmark's experiment, also where the ledger shows nothing to repair.
    Raises StorageError, and TrackingError when there is something to tell a tracking store that is away.
    """
    ledger = Ledger(Storage(settings.storage))
    wanted = [entry.key for entry in ledger.benchmark(settings.benchmark)] if keys is None else list(keys)
    work = _Work(settings, ledger, dry_run)
    known = work.free_dead(wanted)
    due = [trial for trial in known if trial.ended and _is_untold(trial)]
    dead = [trial for trial in known if trial.state == "interrupted" and _may_run(trial)]
    spilled = [trial for trial in known if trial not in due and trial not in dead and _has_spilled(trial)]
    if due or dead or spilled or thorough:
        for trial in due:
            work.tell(trial)
        for trial in dead:
            work.kill(trial)
        for trial in spilled:
            work.deliver(trial)
        # Opening a SQLite store that is not there would make it.
        if thorough and not (dry_run and is_missing(settings.tracking)):
            work.compare({trial.key: trial for trial in known})
    return work.repairs


class _Work:
    """The repairs of one call."""

    def __init__(self, settings: Settings, ledger: Ledger, dry_run: bool) -> None:
        self._settings, self._ledger, self._dry_run = settings, ledger, dry_run
        self._tracker: Tracker | None = None
        self.repairs: list[Repair] = []

    @property
    def tracker(self) -> Tracker:
        """The experiment, once it answers; raises TrackingError."""
        if self._tracker is None:
            from orchestrator.tracking import Tracker

            settings = self._settings
            tracker = Tracker(settings.tracking, settings.benchmark, artifacts=settings.artifacts)
            tracker.check()
            self._tracker = tracker
        return self._tracker

    def look(self, key: str) -> _Known:
        """Read what the ledger says of a trial; of a finished one the result alone."""
        result = self._ledger.result(key) or {}
        if result.get("state") == "finished":
            return _Known(key=key, state="finished", progress={}, result=result)
        progress = self._ledger.progress(key) or {}
        return _Known(key=key, state=self._ledger.state(key), progress=progress, result=result)

    def free_dead(self, keys: Sequence[str]) -> list[_Known]:
        """Release the leases of killed launches of this host, which would else last for a minute; read all trials."""
        freed = set() if self._dry_run else set(free_dead_trials(self._settings, keys))
        found = self._ledger.each(self.look, list(dict.fromkeys(keys)))
        for trial in found:
            if trial.key in freed or (trial.state == "running" and not is_alive(str(trial.progress.get("owner", "")))):
                self._note(trial, "its launch was killed", "its lease was released")
        return found

    def tell(self, trial: _Known) -> None:
        """Tell a run how its trial ended."""
        from orchestrator.runs import Ending, close_run

        ending = Ending.of(trial.result)

        if self._is_held(trial.key):
            return  # its launch is just telling it, or has begun it again

        def do() -> None:
            close_run(self.tracker, str(trial.run_id), trial.key, ending, self._ledger.storage)
            # A trial that failed may have begun again meanwhile; then its new result will say whether it was told.
            self._ledger.amend_result(trial.key, trial.result, {"tracked": True, "untracked": None})

        self._repair(trial, f"it is {trial.state}, which its run was not told", f"the run is {ending.status} now", do)

    def kill(self, trial: _Known) -> None:
        """End the run of a trial that nobody trains any more; the trial itself stays as it is, to be resumed."""
        from orchestrator.runs import deliver

        lease = self._ledger.leases.last(trial.key)
        if lease is not None and lease.held:
            return
        reason = f"no sign of life since step {trial.progress.get('step', 0)}; a launch goes on from its checkpoint"

        def do() -> None:
            # Ended first: the note in the progress would else look like a sign of life of the lease.
            if lease is not None and not lease.released:
                self._ledger.leases.end_silent(trial.key, lease.number, process_identity())
            deliver(self.tracker, str(trial.run_id), trial.key, self._ledger.storage)
            if self._is_held(trial.key):
                raise LeaseLostError("another launch has gone on with it meanwhile")
            self._end(str(trial.run_id), reason)
            self._ledger.write_progress(trial.key, {**trial.progress, "tracked": "KILLED"})

        self._repair(trial, "it was interrupted", "its run is KILLED until a launch resumes it", do)

    def _is_held(self, key: str) -> bool:
        lease = self._ledger.leases.last(key)
        return lease is not None and lease.held and is_alive(lease.owner)

    def deliver(self, trial: _Known) -> None:
        """Bring points that a killed worker left on this host to the run of a trial that has ended."""
        from orchestrator.runs import deliver

        def do() -> None:
            deliver(self.tracker, str(trial.run_id), trial.key, self._ledger.storage)

        self._repair(trial, "points of its curves were still on this host", "they were delivered", do)

    def compare(self, known: Mapping[str, _Known]) -> None:
        """Compare every run of the experiment with the ledger."""
        runs = self.tracker.runs("trial")
        by_key: dict[str, list[TrackedRun]] = {}
        for run in runs:
            by_key.setdefault(run.key, []).append(run)
        for key, found in by_key.items():
            trial = known.get(key) or self.look(key)
            if trial.state == "new":
                for run in found:
                    self._unknown(run)
                continue
            true = next((run for run in found if run.run_id == trial.run_id), None)
            for run in found:
                if run is not true:
                    self._other(trial, run, true)
            if true is not None:
                self._true_status(trial, true)

    def _other(self, trial: _Known, run: TrackedRun, true: TrackedRun | None) -> None:
        from orchestrator.tracking import DUPLICATE_TAG

        if DUPLICATE_TAG in run.tags or (true is None and run.status != "RUNNING"):
            return
        tracker, of = self.tracker, str(trial.run_id)
        self._repair(
            trial,
            f"run {run.run_id} is a second one of it beside {of}",
            "that one is marked as a duplicate and KILLED",
            lambda: tracker.discard(run.run_id, of),
            run_id=run.run_id,
        )

    def _true_status(self, trial: _Known, run: TrackedRun) -> None:
        from orchestrator.runs import Ending

        done = {repair.run_id for repair in self.repairs}
        if trial.ended and run.run_id not in done and run.status != Ending.of(trial.result).status:
            self.tell(trial)
        if trial.state == "interrupted" and run.run_id not in done and run.status == "RUNNING":
            self.kill(trial)

    def _unknown(self, run: TrackedRun) -> None:
        trial = _Known(key=run.key, state="new", progress={"cell": run.name, "run_id": run.run_id}, result={})
        problem = f"run {run.run_id} is of no trial in {self._settings.storage}"
        if run.status == "RUNNING" and self._is_silent(run):
            reason = "no ledger knows its trial, and its machine gives no sign of life"
            end = lambda: self._end(run.run_id, reason)  # noqa: E731
            self._repair(trial, f"{problem} and was RUNNING without a sign of life", "the run is KILLED", end)
        else:
            self._note(trial, f"{problem} ({run.status})", "it was left as it is")

    def _is_silent(self, run: TrackedRun) -> bool:
        """Samples of the machine carry the time of the clock; points of curves do not."""
        stored = self.tracker.client.get_run(run.run_id).data.to_proto().metrics
        signs = [int(metric.timestamp) for metric in stored if metric.key.startswith("system/")]
        return time.time() - max([run.start_ms, *signs]) / 1e3 > SILENT_SECONDS

    def _end(self, run_id: str, reason: str) -> None:
        from orchestrator.describe import restated
        from orchestrator.tracking import REASON_TAG
        from orchestrator.views import NOTE_TAG

        tracker = self.tracker
        run = tracker.client.get_run(run_id)
        if run.info.status == "RUNNING":
            note = run.data.tags.get(NOTE_TAG)
            notes = {} if note is None else {NOTE_TAG: restated(note, "interrupted", reason)}
            tracker.set_tags(run_id, {REASON_TAG: reason, "hrgrid.verdict": "interrupted", **notes})
            tracker.client.set_terminated(run_id, status="KILLED")

    def _repair(
        self, trial: _Known, problem: str, done: str, do: Callable[[], Any], run_id: str | None = None
    ) -> None:
        """Do a repair and note it; one that cannot be done keeps no other from being done."""
        if not self._dry_run:
            self.tracker  # noqa: B018 -- a store that is away ends the call in one sentence
            try:
                do()
            except OrchestratorError as error:
                self._note(trial, problem, f"not repaired: {error}", run_id, failed=True)
                return
            except Exception as error:
                _log.debug("repair of %s", trial.key, exc_info=True)
                reason = reason_of(error)
                self._note(trial, problem, f"not repaired: {reason}", run_id, failed=True)
                return
        self._note(trial, problem, done, run_id)

    def _note(self, trial: _Known, problem: str, done: str, run_id: str | None = None, failed: bool = False) -> None:
        said = f"to be done: {done}" if self._dry_run else done
        repair = Repair(
            key=trial.key, cell=trial.cell, run_id=run_id or trial.run_id, problem=problem, done=said, failed=failed
        )
        self.repairs.append(repair)


def _is_untold(trial: _Known) -> bool:
    """Tell whether a trial that ended has a run that does not know it; results of old launches told theirs."""
    untold = trial.result.get("tracked") is False or bool(trial.result.get("untracked"))
    return untold and trial.run_id is not None


def _may_run(trial: _Known) -> bool:
    return trial.run_id is not None and trial.progress.get("tracked") != "KILLED"


def _has_spilled(trial: _Known) -> bool:
    return trial.state != "running" and trial.run_id is not None and bool(left_behind(spool_folder(), trial.run_id))
