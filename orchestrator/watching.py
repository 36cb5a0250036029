"""What the ledger says of trials while they run, in the form that boards and gauges show."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import StorageError
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.workload import Json

__all__ = ["TrialProgress", "Watch", "trial_progress"]

_AT_WORK: Final = ("training", "evaluating", "evaluated")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialProgress:
    """Where one trial of a running launch is."""

    key: str
    cell: str
    state: str
    """waiting, running, finished, failed, stopped, skipped or blocked."""
    phase: str = ""
    """Of a running trial: starting, training, evaluating or evaluated."""
    step: int = 0
    total: int = 0
    evaluated: int = 0
    """Images of the final evaluation that are done, and of all of them (0: it has not begun)."""
    to_evaluate: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    run_id: str | None = None
    error: str | None = None
    warning: str = ""
    """One sentence while it is far below its reference."""
    failure: str | None = None
    advice: str | None = None
    restarts: int = 0
    """Of its gang, since its driver started."""
    lost_seconds: float = 0.0
    """What the restarts cost, see `ProgressWriter.resumed`."""


def trial_progress(
    key: str, cell: str, progress: Mapping[str, Json], result: Mapping[str, Json] | None
) -> TrialProgress:
    """Put a progress document, empty for none, and a result together; without a result the trial is running."""
    return TrialProgress(
        key=key,
        cell=cell,
        state="running" if result is None else str(result["state"]),
        phase=str(progress.get("phase", "")) if result is None else "",
        step=int(progress.get("step", 0)),
        total=int(progress.get("total", 0)),
        evaluated=int(progress.get("evaluated", 0)),
        to_evaluate=int(progress.get("to_evaluate", 0)),
        metrics=(progress if result is None else result).get("metrics") or {},
        run_id=(progress if result is None else result).get("run_id"),
        error=None if result is None else result.get("error"),
        warning=str(progress.get("warning") or ""),
        failure=None if result is None else result.get("failure"),
        advice=None if result is None else result.get("advice"),
        restarts=max(0, int(progress.get("attempt", 1)) - 1),
        lost_seconds=float(progress.get("lost_seconds", 0.0)),
    )


class Watch:
    """What the ledger says of the trials of one launch; a trial that has ended is not read again."""

    def __init__(self, ledger: Ledger, plan: Plan, owner: str) -> None:
        self.ledger, self._plan, self._owner = ledger, plan, owner
        keys = [trial.key for trial in plan.to_run]
        self._earlier = dict(zip(keys, ledger.each(ledger.result, keys), strict=True))
        self._ended: dict[str, TrialProgress] = {}
        self._seen = [TrialProgress(key=t.key, cell=t.spec.cell.name, state="waiting") for t in plan.trials]
        self.results: dict[str, Mapping[str, Json]] = {}

    def look(self) -> list[TrialProgress]:
        """Read all trials that have not ended; while the storage is away, which stops no training, as last seen."""
        try:
            self._seen = self.read()
        except StorageError as error:
            _log.info("the ledger cannot be read: %s", error)
        return self._seen

    def read(self) -> list[TrialProgress]:
        """Read all trials that have not ended, at the same time; raises StorageError while the storage is away."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self._one, self._plan.trials))

    def begun(self) -> list[PlannedTrial]:
        """The trials that this launch has begun and not ended."""
        return [trial for trial in self._plan.to_run if self.progress(trial.key) and self.result(trial.key) is None]

    def at_work(self) -> dict[str, int]:
        """The trials whose gangs can be asked to stop, and their leases; one that is starting has nothing to save."""
        progress = {trial.key: self.progress(trial.key) for trial in self.begun()}
        return {key: int(found["lease"]) for key, found in progress.items() if found.get("phase") in _AT_WORK}

    def progress(self, key: str) -> Mapping[str, Json]:
        """The progress that this launch wrote, or nothing."""
        progress = self.ledger.progress(key) or {}
        return progress if progress.get("owner") == self._owner else {}

    def result(self, key: str) -> Mapping[str, Json] | None:
        """The result that this launch wrote, or None."""
        result = self.ledger.result(key)
        # Not told by clocks: the driver that wrote it may be on a machine with another one.
        mine = result is not None and result.get("owner") == self._owner and result != self._earlier.get(key)
        return result if mine else None

    def finished(self, key: str) -> bool:
        """Tell whether the trial is finished, whoever did it."""
        return self.ledger.state(key) == "finished"

    def is_unclosed(self, key: str) -> bool:
        """Tell whether this launch began a trial, and neither wrote how it ended nor lost it to another launch."""
        lease = self.ledger.leases.last(key)
        mine = lease is not None and lease.owner == self._owner
        return mine and bool(self.progress(key)) and not self.finished(key)

    def _one(self, trial: PlannedTrial) -> TrialProgress:
        key, cell = trial.key, trial.spec.cell.name
        if key in self._ended:
            return self._ended[key]
        if not trial.runs:
            state = "skipped" if trial.action == "skip" else "blocked"
            self._ended[key] = TrialProgress(key=key, cell=cell, state=state, error=trial.reason)
            return self._ended[key]
        result, progress = self.result(key), self.progress(key)
        if result is None and not progress:
            return TrialProgress(key=key, cell=cell, state="waiting")
        found = trial_progress(key, cell, progress, result)
        if result is not None:
            self._ended[key], self.results[key] = found, result
        return found
