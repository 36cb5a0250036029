"""Ray Tune's ASHA for searches: it hears of every validation from the trials' drivers and asks poor samples to stop.

Tune would kill a trial's driver and with it the gang. So its decision becomes a request in the ledger: the gang makes
a checkpoint and ends, and its driver writes the true end with the reason, as for any other stop.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.ledger import Ledger
from orchestrator.search import STOPPED_EARLY, Halving
from orchestrator.storage import Storage

__all__ = ["asha", "validations_told"]

LOOK_SECONDS: Final = 1.0
"""Between two looks of a driver at its trial's progress."""
_JOIN_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


def asha(halving: Halving | None, keys: Sequence[str], storage: str) -> Any:
    """Return the scheduler for Tune that asks trials, given by their keys, to stop; None without a search."""
    return None if halving is None else _asha(halving, keys, storage)


def _asha(halving: Halving, keys: Sequence[str], storage: str) -> Any:
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    class Asking(ASHAScheduler):
        """Decides as ASHA does, and lets the trial end itself; the copies that Tune saves ask nobody."""

        def __init__(self, ledger: Ledger | None) -> None:
            super().__init__(
                time_attr="step",
                metric=halving.metric,
                mode=halving.mode,
                max_t=halving.total,
                grace_period=halving.grace,
                reduction_factor=halving.reduction,
                stop_last_trials=False,
            )
            self._ledger, self._asked = ledger, set[int]()

        def __reduce__(self) -> tuple[Any, ...]:
            return Asking, (None,)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            index, step = trial.config["index"], result.get("step", 0)
            action = super().on_trial_result(tune_controller, trial, result)
            # At its last step a sample has cost all that it can cost.
            if action == TrialScheduler.STOP and index not in self._asked and step < halving.total and self._ledger:
                self._asked.add(index)
                _ask(self._ledger, keys[index], self._reason(trial, step, result[halving.metric]))
            return TrialScheduler.CONTINUE

        def _reason(self, trial: Any, step: int, value: float) -> str:
            rungs = self._trial_info[trial.trial_id]._rungs  # descending
            values = next(found for _, found in rungs if trial.trial_id in found)
            own = values[trial.trial_id]
            rank = 1 + sum(other > own for other in values.values())
            return f"{STOPPED_EARLY} at step {step} ({halving.metric} {value:.4g}, rank {rank} of {len(values)} there)"

    return Asking(Ledger(Storage(storage)))


def _ask(ledger: Ledger, key: str, reason: str) -> None:
    try:
        ledger.ask_stop(key, int((ledger.progress(key) or {})["lease"]), reason)
    except (OrchestratorError, KeyError) as error:
        _log.warning("trial %s goes on, as the search's request does not reach it: %s", key, error)


@contextmanager
def validations_told(ledger: Ledger, key: str, owner: str, halving: Halving | None) -> Iterator[None]:
    """While a trial's driver waits for its gang, tell Tune of its validations; without a search nothing.

    Tune takes results from any thread of the driver's process, one at a time.
    """
    if halving is None:
        yield
        return
    ended = threading.Event()

    def work() -> None:
        last = 0
        while True:
            over = ended.wait(LOOK_SECONDS)
            try:
                last = _tell(ledger, key, owner, halving, last)
            except OrchestratorError as error:
                _log.warning("trial %s: its validations are not known to the search: %s", key, error)
            if over:
                return

    thread = threading.Thread(target=work, name="hrgrid-search", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_SECONDS)


def _tell(ledger: Ledger, key: str, owner: str, halving: Halving, last: int) -> int:
    """Report what came after step `last`; return the newest step."""
    from ray import tune

    progress = ledger.progress(key) or {}
    if progress.get("owner") != owner:
        return last
    for step, metrics in progress.get("validated") or ():
        value = metrics.get(halving.metric)
        if step > last and value is not None:
            # NaN compares with nothing and would never be stopped.
            worst = -1e30 if halving.mode == "max" else 1e30
            tune.report({"step": step, halving.metric: value if math.isfinite(value) else worst})
            last = step
    return last
