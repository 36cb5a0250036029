"""Where a launch is, for Prometheus: gauges that Ray's own exporter serves on the node of the launch, the head.

The launch shows what it knows of every trial with each look at the ledger, so that a curve goes on while a gang is
restarted, and a finished trial's scores stay. Ray forgets a gauge that is not set again: a dead launch shows nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from orchestrator.raystart import LOCAL

if TYPE_CHECKING:
    from orchestrator.watching import TrialProgress

__all__ = ["OF_TRIALS", "gauge_name", "shown"]

OF_TRIALS: Final[Mapping[str, str]] = {
    "trial_state": "1 for the state that a trial is in",
    "trial_step": "iterations completed",
    "trial_steps": "iterations in all",
    "trial_restarts": "times that the gang began anew since the driver of its trial started",
    "trial_lost_seconds": "seconds since the checkpoint that was gone on from, summed over the restarts",
}
"""What is told of every trial beside its metrics, and what it means."""


def gauge_name(metric: str) -> str:
    """Name of the gauge that shows a metric of the trials: hrgrid_val_miou for val/mIoU.

    Ray puts ray_ before it, and serves no capital letters.
    """
    return "hrgrid_" + re.sub(r"\W", "_", metric).lower()


def shown(benchmark: str, on_update: Callable[[list[TrialProgress]], None]) -> Callable[[list[TrialProgress]], None]:
    """Return `on_update`, preceded by setting the gauges of a launch; in a local Ray, which nobody scrapes, as it is.

    Ray must be initialised. To be called more often than Ray reports, which is every ten seconds.
    """
    if os.environ.get(LOCAL):
        return on_update
    gauges = _Gauges(benchmark)

    def update(trials: list[TrialProgress]) -> None:
        gauges.show(trials)
        on_update(trials)

    return update


class _Gauges:
    """Every metric of every trial of one launch, by the labels benchmark, cell and trial (the trial's key)."""

    def __init__(self, benchmark: str) -> None:
        self._benchmark = benchmark
        self._made: dict[str, Any] = {}

    def show(self, trials: Iterable[TrialProgress]) -> None:
        for trial in trials:
            labels = {"benchmark": self._benchmark, "cell": trial.cell, "trial": trial.key}
            self._set("trial_state", 1.0, {**labels, "state": trial.state})
            if not trial.total:
                continue
            told = {
                "trial_step": trial.step,
                "trial_steps": trial.total,
                "trial_restarts": trial.restarts,
                "trial_lost_seconds": trial.lost_seconds,
            }
            for name, value in {**told, **trial.metrics}.items():
                self._set(name, float(value), labels)

    def _set(self, name: str, value: float, labels: dict[str, str]) -> None:
        from ray.util.metrics import Gauge

        if name not in self._made:
            self._made[name] = Gauge(gauge_name(name), OF_TRIALS.get(name, f"metric {name}"), tuple(labels))
        self._made[name].set(value, labels)
