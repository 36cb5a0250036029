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
from collections.abc import Generator
from pathlib import Path

from orchestrator.grid import expand, parse_overrides, select
from orchestrator.ledger import Ledger
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.reconcile import reconcile
from orchestrator.scheduler import TrialProgress, run_plan
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.trainer import RunOptions
from orchestrator.workload import Spec
from tests.orchestrator.fake import FakeEvent, FakeWorkload


class TroubledWorkload(FakeWorkload):
    """Two cells in trouble: one makes a user's mistake at step 4, one loses its worker once at step 10."""

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
            answer = yield event


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

    provenance = {"git_commit": "0123abc", "host": "laptop"}
    options = RunOptions(provenance=provenance, telemetry_seconds=1.0, max_failures=2)
    try:
        outcomes = run_plan(workload, plan, settings, count, options)
    except KeyboardInterrupt:
        print(json.dumps({"stopped": True}))
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
