"""A grid larger than the cluster, with gangs of 1, 2 and 4, through a real local Ray: does it go as simulated?

`python -m tests.integration.chaos.packing` measures each size of gang once, plans the grid from what that left in the
ledger, runs it on four logical slots, and prints plan beside reality: order of starts, finish, busy share, and the
placement groups that are left. Exit code 1 if a cell did not finish, a group is left, or the order was another.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.dispatch import Dispatch, Gang
from orchestrator.estimates import Estimator, measurements
from orchestrator.grid import expand, parse_overrides, select
from orchestrator.ledger import Ledger
from orchestrator.packing import simulate
from orchestrator.plan import ClusterShape, Plan, make_plan
from orchestrator.settings import Settings, make_settings
from orchestrator.storage import Storage
from orchestrator.trainer import RunOptions
from orchestrator.workload import Spec
from tests.orchestrator.fake import FakeWorkload

SLOTS = 4
RULES = ("1", "thick-*-short=2", "thick-*-long=4")
SAMPLES = ("thin-add-long", "thick-add-short", "thick-add-long")
"""One cell of every size; their second seed is what the plan of the grid knows."""


class TimedWorkload(FakeWorkload):
    """Tells its speed as a training does, so that plans have something to go by."""

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Any:
        speed = spec.settings["batch"] / spec.settings["sleep"]
        for event in super().train(spec, resume, cpus=cpus):
            if event.kind == "progress":
                event = dataclasses.replace(event, metrics={**event.metrics, "train/images_per_s": speed})
            yield event


class WatchedDispatch(Dispatch):
    """The policy, with a note of what it started when."""

    def __init__(self, gangs: Sequence[Gang], slots: int) -> None:
        super().__init__(gangs, slots)
        self.log: list[tuple[int, float]] = []

    def start(self, now: float) -> int | None:
        """Start as the policy does, and note it."""
        index = super().start(now)
        if index is not None:
            self.log.append((index, time.time()))
        return index


class WatchedPlan(Plan):
    """A plan that hands out one watched policy."""

    watched: list[WatchedDispatch]

    def policy(self) -> Dispatch:
        """Return the policy of the plan, watched."""
        made = WatchedDispatch([trial.gang for trial in self.to_run], self.cluster.slots)
        self.watched.append(made)
        return made


def main() -> int:
    """Measure, plan, run, compare."""
    from orchestrator.raystart import connect

    with tempfile.TemporaryDirectory(prefix="hrgrid-packing-") as folder:
        settings = make_settings(storage=f"{folder}/results", tracking=None, benchmark="packing", environment={})
        connect(address=None, slots=SLOTS, cpus=SLOTS)
        import ray

        try:
            print("measuring one cell of every size ...", flush=True)
            _launch(settings, SAMPLES, seed=1)
            print("running the grid ...", flush=True)
            return _compare(settings, *_launch(settings, ("*",), seed=0))
        finally:
            ray.shutdown()


def _launch(settings: Settings, names: Sequence[str], *, seed: int) -> tuple[WatchedPlan, float, set[str]]:
    from orchestrator.scheduler import run_plan

    workload = TimedWorkload()
    cells = select(workload.cells(), {}, names)
    trials = expand(workload, cells, parse_overrides(["sleep=0.5"]), (seed,), "data")
    ledger = Ledger(Storage(settings.storage))
    records = ledger.trials(trial.key for trial in trials)
    cluster = ClusterShape(slots=SLOTS, cpus=SLOTS)
    estimator = Estimator(measurements(ledger, trials, records, workload), cluster)
    plan = make_plan(trials, records, cluster, workers=RULES, cpus_per_worker=1, estimator=estimator)
    watched = WatchedPlan(**{f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)})
    object.__setattr__(watched, "watched", [])
    began = time.time()
    outcomes = run_plan(workload, watched, settings, options=RunOptions(telemetry_seconds=5.0))
    return watched, began, {outcome.key for outcome in outcomes if outcome.state == "finished"}


def _compare(settings: Settings, plan: WatchedPlan, began: float, finished: set[str]) -> int:
    import ray.util

    trials = plan.to_run
    expected = list(simulate([trial.gang for trial in trials], SLOTS).sequence)
    log = plan.watched[0].log
    started = [index for index, _ in log]
    ledger = Ledger(Storage(settings.storage))
    ends = {index: float((ledger.result(trials[index].key) or {}).get("ended", 0.0)) for index in started}
    first, last = min(at for _, at in log), max(ends.values())
    busy = sum((ends[index] - at) * trials[index].workers for index, at in log) / (SLOTS * (last - first))
    print(f"{'cell':<18} gang  planned start  real start  planned end  real end   (s)")
    for index, at in log:
        trial = trials[index]
        times = f"{trial.start:>13.0f}  {at - first:>10.0f}  {trial.end:>11.0f}  {ends[index] - first:>8.0f}"
        print(f"{trial.spec.cell.name:<18} {trial.workers:>4}  {times}")
    time.sleep(2.0)
    groups: Any = ray.util.placement_group_table()
    left = [group for group in groups.values() if group["state"] != "REMOVED"]
    print(f"cells finished: {len(finished)} of {len(trials)}")
    print(f"finish: planned {plan.finish_seconds:.0f} s, measured {last - first:.0f} s from the first start")
    print(f"before the first start: {first - began:.0f} s")
    print(f"lower bound of the planned durations: {plan.bound_seconds:.0f} s")
    print(f"busy share of the slots: {100 * busy:.0f} %")
    print(f"placement groups: {len(groups)} made, {len(left)} left")
    print(f"order of starts: {'as simulated' if started == expected else f'{started}, simulated {expected}'}")
    return 0 if len(finished) == len(trials) and not left and started == expected else 1


if __name__ == "__main__":
    sys.exit(main())
