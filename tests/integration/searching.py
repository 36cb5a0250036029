"""A search in a process of its own, as the command makes it: `python -m tests.integration.searching STORAGE CELL`.

Prints one JSON line: the samples with action, outcome and reason.
"""

from __future__ import annotations

import argparse
import json
import sys

from orchestrator.grid import parse_overrides, select
from orchestrator.ledger import Ledger
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.scheduler import run_plan
from orchestrator.search import Halving, make_samples, parse_domains, sample_trials
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.trainer import RunOptions
from tests.orchestrator.fake import FakeWorkload


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("storage")
    parser.add_argument("cell")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--search", action="append", default=[])
    arguments = parser.parse_args()
    settings = make_settings(storage=arguments.storage, benchmark="bench", environment={})
    workload = FakeWorkload()
    samples = make_samples(parse_domains(arguments.search), None, 0)
    cells = select(workload.cells(), {}, [arguments.cell])
    trials = sample_trials(workload, cells, parse_overrides(arguments.set), samples)
    records = Ledger(Storage(settings.storage)).trials(trial.key for trial in trials)
    plan = make_plan(trials, records, ClusterShape(slots=2, cpus=2), workers=1, cpus_per_worker=1)
    again = make_plan(trials, records, ClusterShape(slots=2, cpus=2), workers=1, resume_stopped=True)
    halving = Halving(metric="val/mIoU", mode="max", grace=2, reduction=2, total=trials[0].estimate.iterations)
    outcomes = {
        outcome.key: outcome for outcome in run_plan(workload, plan, settings, options=RunOptions(halving=halving))
    }
    document = [
        {
            "key": trial.key,
            "sample": dict(trial.spec.sample),
            "action": trial.action,
            "asked_to_resume": next(other.action for other in again.trials if other.key == trial.key),
            "reason": trial.reason,
            "state": outcomes[trial.key].state,
            "error": outcomes[trial.key].error,
        }
        for trial in plan.trials
    ]
    print(json.dumps({"samples": document, "ray": "ray" in sys.modules}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
