"""A launch in a process of its own, as the command makes it: `python -m tests.integration.launch STORAGE CELLS...`.

Prints one JSON line with the outcomes, and nothing else: Ray, Tune and MLflow must leave the terminal alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path

from orchestrator import provenance
from orchestrator.grid import expand, parse_overrides, select
from orchestrator.ledger import Ledger
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.reconcile import reconcile
from orchestrator.scheduler import run_plan
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.trainer import RunOptions
from orchestrator.watching import TrialProgress
from orchestrator.workload import Spec
from tests.orchestrator.fake import FakeEvent, FakeWorkload


class TroubledWorkload(FakeWorkload):
    """Cells in trouble: one makes a user's mistake at step 4, one loses its worker once at step 10, one hangs once."""

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[FakeEvent, str | None, None]:
        training, answer = super().train(spec, resume, cpus=cpus), None
        while True:
            try:
                event = training.send(answer)
            except StopIteration:
                return
            if spec.cell.name == "thin-add-long" and event.step == 4:
                raise ValueError("thin-add-long: rate 0.5 is out of range; take 0 to 0.1")
            if spec.cell.name == "thick-add-long" and event.step == 10 and event.kind == "progress":
                marker = Path(spec.data) / "killed"
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            if spec.cell.name == "thick-sort-long" and event.step == 7 and event.kind == "step":
                _hang_once(Path(spec.data) / "hung")
            answer = yield event


def _hang_once(marker: Path) -> None:
    """The second worker of a gang waits for nothing, and the others wait for it in their next collective."""
    import ray.train

    if ray.train.get_context().get_world_rank() == 1 and not marker.exists():
        marker.touch()
        threading.Event().wait()


def main(workload: FakeWorkload | None = None) -> int:
    """Launch with the arguments of the process; without a workload of the caller's with the troubled one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("storage")
    parser.add_argument("cells", nargs="+")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--workers", action="append", default=["1"])
    parser.add_argument("--data", default="data")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--tracking")
    parser.add_argument("--hang-seconds", type=float, default=300.0)
    parser.add_argument("--infeasible-seconds", type=float, default=3600.0)
    parser.add_argument("--resize-seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    settings = make_settings(storage=arguments.storage, tracking=arguments.tracking, benchmark="bench", environment={})
    workload = workload or TroubledWorkload()
    cells = select(workload.cells(), {}, arguments.cells)
    trials = expand(workload, cells, parse_overrides(arguments.set), data=arguments.data)
    keys = [trial.key for trial in trials]
    freed = list(dict.fromkeys(repair.key for repair in reconcile(settings, keys)))
    records = Ledger(Storage(settings.storage)).trials(keys)
    cluster = ClusterShape(slots=arguments.slots, cpus=arguments.slots)
    plan = make_plan(trials, records, cluster, workers=arguments.workers, cpus_per_worker=1)
    updates = 0

    def count(progress: list[TrialProgress]) -> None:
        nonlocal updates
        updates += len(progress) == len(trials)

    options = RunOptions(
        provenance={**provenance.capture(), "host": "laptop"},
        patch=provenance.source().patch,
        telemetry_seconds=1.0,
        max_failures=2,
        hang_seconds=arguments.hang_seconds,
        infeasible_seconds=arguments.infeasible_seconds,
        resize_seconds=arguments.resize_seconds,
    )
    # Who is started in the background of a script is not told of Ctrl-C, and its children are not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told: list[str] = []
    try:
        outcomes = run_plan(workload, plan, settings, count, options, told.append)
    except KeyboardInterrupt:
        print(json.dumps({"stopped": True, "told": told}))
        return 130
    document = {
        "outcomes": {outcome.cell: dataclasses.asdict(outcome) for outcome in outcomes},
        "actions": {trial.spec.cell.name: trial.action for trial in plan.trials},
        "freed": freed,
        "updates": updates,
        "ray": "ray" in sys.modules,
        "mlflow": "mlflow" in sys.modules,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
