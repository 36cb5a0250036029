"""Eight trials that log at once to one MLflow server, over PostgreSQL and over SQLite: write rates, and nothing lost.

Each trial is a process with the recorder of a training, whose metrics go to the server in batches. Every point is read
back from the server afterwards: none may be missing, there twice or of another value. Needs Debian's PostgreSQL.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from jobs._mlserver import Server, ServerPlan
from jobs._serveaccess import accounts
from tests.integration.chaos.showing import add_output, show, workplace, write
from tests.integration.postgresql import postgresql

NAMES = tuple(f"train/metric{number}" for number in range(10))
PASSWORD = "a password of the figures"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each server, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8, help="processes that log at once (default 8)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each, of ten metrics (default 1000)")
    parser.add_argument("--workers", type=int, action="append", help="of the server; may be repeated (default 1, 2)")
    parser.add_argument("--auth", action="store_true", help="measure with accounts, too")
    add_output(parser)
    args = parser.parse_args(argv)
    rows = []
    with workplace(args.folder) as folder, postgresql() as address:
        kinds = {"SQLite": f"sqlite:///{folder}/mlflow.db", "PostgreSQL": address}
        for workers, auth in itertools.product(args.workers or (1, 2), (False, True) if args.auth else (False,)):
            for kind, backend in kinds.items():
                row = {"database": kind, "workers": workers, "accounts": "with" if auth else "without"}
                row |= _measure(folder / f"{kind}-{workers}-{auth}", backend, args.trials, args.steps, workers, auth)
                show([row])
                rows.append(row)
    print()
    show(rows)
    write(args.json, rows)
    sound = all(row["delivered"] == args.trials and not row["missing"] + row["doubled"] + row["wrong"] for row in rows)
    return 0 if sound else 1


def _measure(folder: Path, backend: str, trials: int, steps: int, workers: int, auth: bool) -> dict[str, Any]:
    from orchestrator.tracking import Tracker

    os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    with ExitStack() as opened:
        plan = ServerPlan(
            backend=backend,
            artifacts=str(folder / "artifacts"),
            log=folder / "server.log",
            workers=workers,
            app="basic-auth" if auth else None,
            environment=opened.enter_context(accounts(backend, PASSWORD)) if auth else {},
        )
        uri = opened.enter_context(Server(plan)).uri
        tracker = Tracker(uri, folder.name)
        tracker.check()
        runs = [tracker.start_run(f"trial{number}", f"trial{number}") for number in range(trials)]
        starts = [tracker.start_ms(run_id) for run_id in runs]
        context = multiprocessing.get_context("spawn")
        gate, told = context.Barrier(trials + 1), context.SimpleQueue()
        family = [
            context.Process(target=_log, args=(uri, run_id, start, steps, folder, gate, told))
            for run_id, start in zip(runs, starts, strict=True)
        ]
        for process in family:
            process.start()
        gate.wait(600)
        began = time.time()
        for process in family:
            process.join()
        outcomes = [told.get() for _ in range(trials) if not told.empty()]
        seconds = max((ended for _, _, ended in outcomes), default=time.time()) - began
        missing = doubled = wrong = 0
        for run_id in runs:
            for column, name in enumerate(NAMES):
                points = tracker.client.get_metric_history(run_id, name)
                found = {(int(p.step), float(p.value)) for p in points}
                expected = {(step, _value(step, column)) for step in range(steps)}
                there = {step for step, _ in found}
                missing += steps - len(there & set(range(steps)))
                doubled += len(points) - len({int(p.step) for p in points})
                wrong += len(found - expected)
            tracker.finish(run_id, "FINISHED")
    return {
        "trials": trials,
        "points": trials * steps * len(NAMES),
        "seconds": round(seconds, 1),
        "points_per_s": round(trials * steps * len(NAMES) / seconds),
        "longest_record_ms": round(1e3 * max((longest for _, longest, _ in outcomes), default=0.0), 1),
        "delivered": sum(delivered for delivered, _, _ in outcomes),
        "missing": missing,
        "doubled": doubled,
        "wrong": wrong,
    }


def _value(step: int, column: int) -> float:
    return (step + 1) / (column + 3)


def _log(uri: str, run_id: str, start: int, steps: int, folder: Path, gate: Barrier, told: Any) -> None:
    """What a trial does: record a step's metrics, again and again, then wait until all are stored."""
    import mlflow  # noqa: F401  (two seconds of each process that are no logging)

    from orchestrator.recorder import Recorder

    recorder = Recorder(uri, run_id, start, folder=folder / f"spool-{run_id}", flush_seconds=0.2)
    longest = 0.0
    gate.wait(600)
    for step in range(steps):
        began = time.perf_counter()
        recorder.record({name: _value(step, column) for column, name in enumerate(NAMES)}, step)
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.001)
    told.put((recorder.close(600.0), longest, time.time()))


if __name__ == "__main__":
    sys.exit(main())
