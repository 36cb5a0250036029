"""How fast MLflow's pages are with a benchmark's worth of history: `python -m tests.integration.history`.

Records the 45 recipes, then gives each run the history of 160,000 iterations: six training metrics every 50, a
validation every 16,000, seven metrics of the machine every minute of a day. The points are written into the database
as MLflow writes them, in bulk (1.3 million through its client take ten minutes). Then a server over the store is asked
for each page by a new Chromium profile, and the time until what one looks for is on the page is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, Final

from jobs._mlserver import Server, ServerPlan
from orchestrator.pages import open_experiment
from orchestrator.settings import Settings, make_settings
from orchestrator.tracking import Tracker
from orchestrator.views import CURVES, experiment_address
from tests.integration import recorded
from tests.integration.browser import visit

__all__ = ["fill", "main"]

ITERATIONS: Final = 160_000
DAY: Final = 24 * 3600
GOALS: Final = {"leaderboard": 3.0, "run": 3.0}
"""Seconds for the pages that one opens first. In the others MLflow asks for each curve by itself."""
AT_REST_MS: Final = 2000
"""A browser that was started a moment ago is still busy with itself."""


def main(arguments: list[str] | None = None) -> int:
    """Fill, serve, measure; exit code 1 if a page took longer than the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=45)
    parser.add_argument("--times", type=int, default=5, help="visits of each page, of which the median counts")
    parser.add_argument("--folder", help="where the store is kept; one that is there is used again")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    args = parser.parse_args(arguments)
    with contextlib.ExitStack() as opened:
        folder = Path(args.folder or opened.enter_context(tempfile.TemporaryDirectory(prefix="hrgrid-history-")))
        places = make_settings(storage=str(folder), benchmark="history", environment={})
        if not (folder / "mlflow.db").exists():
            began = time.monotonic()
            print(f"{fill(places, args.runs):,} points in {time.monotonic() - began:.0f} s", flush=True)
        log = folder / "server.log"
        server = opened.enter_context(Server(ServerPlan(backend=places.tracking, log=log, workers=args.workers)))
        slow = [name for name, seconds in _measure(places, server.uri, args.times) if seconds > GOALS.get(name, inf)]
    return 1 if slow else 0


def fill(places: Settings, runs: int) -> int:
    """Make the store; returns how many points it holds."""
    logging.getLogger("orchestrator.runs").setLevel(logging.ERROR)  # which says that the recipes have no data
    open_experiment(places)
    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    made = {}
    for number, trial in enumerate(recorded.planned(runs)):
        score = 40.0 + 0.8 * number
        run_id = recorded.opened(tracker, trial, places)
        metrics = {"val/mIoU": score, "val/mIoU_ms_flip": score + 1.3, "speed/fps": 20.0 + number}
        recorded.finish(tracker, run_id, trial, places, metrics)
        made[run_id] = (trial, score, tracker.start_ms(run_id))
    recorded.summarise(tracker, places, {"reproduced": runs}, {"report.md": b"# History\n"})
    points = 0
    with contextlib.closing(sqlite3.connect(places.tracking.removeprefix("sqlite:///"))) as store:
        for run_id, (trial, score, start_ms) in made.items():
            rows = list(_history(run_id, start_ms, trial, score))
            insert = (
                "INSERT OR IGNORE INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?,?,?,?,?,0)"
            )
            store.executemany(insert, rows)
            # Rows of one name are in the order of their steps, so that its last one is the latest.
            latest = {row[0]: row for row in rows}
            store.executemany(insert.replace("INTO metrics", "INTO latest_metrics"), latest.values())
            points += len(rows)
        store.commit()
    return points


_Row = tuple[str, float, int, int, str]


def _history(run_id: str, start_ms: int, trial: Any, score: float) -> Iterator[_Row]:
    scale = trial.estimate.iterations / ITERATIONS
    for step, metrics in recorded.curves(trial, score, [int(step * scale) for step in range(50, ITERATIONS + 1, 50)]):
        at = int(step / scale)
        for name, value in metrics.items():
            yield name, value, start_ms + at, at, run_id
    for second in range(0, DAY, 60):
        for name, value in recorded.machine(second).items():
            yield name, value, start_ms + 1000 * second, second, run_id


def _measure(places: Settings, server: str, times: int) -> Iterator[tuple[str, float]]:
    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    known, run = tracker.experiment_id, tracker.runs()[-1]
    page = f"{server}/#/experiments/{known}/runs/{run.run_id}"
    places_and_signs: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "leaderboard": (experiment_address(server, known), _rows),
        "run": (page, lambda shown: shown.get_by_role("link", name="val/mIoU", exact=True)),
        "metrics of a run": (f"{page}/model-metrics", _curve),
        "system metrics of a run": (f"{page}/system-metrics", _curve),
        "curves of ten runs": (experiment_address(server, known, CURVES), _curve),
        "MLflow's own view": (f"{server}/#/experiments/{known}/runs?workflowType=machine_learning", _run_name),
        "MLflow's experiments": (f"{server}/#/experiments", lambda shown: shown.get_by_role("link", name="history")),
    }
    for name, (address, sign) in places_and_signs.items():
        taken = sorted(_visit(address, sign) for _ in range(times))
        middle = statistics.median(taken)
        goal = f", goal {GOALS[name]:g} s" if name in GOALS else ""
        print(f"{name:<26}{middle:6.2f} s   of {times}: {taken[0]:.2f} to {taken[-1]:.2f}{goal}", flush=True)
        yield name, middle


def _visit(address: str, sign: Callable[[Any], Any]) -> float:
    """Seconds from the request until the sign is there, in a new profile whose browser runs already."""
    with visit("about:blank") as seen:
        seen.page.wait_for_timeout(AT_REST_MS)
        began = time.monotonic()
        seen.page.goto(address, wait_until="commit")
        sign(seen.page).first.wait_for(timeout=120_000)
        return time.monotonic() - began


def _rows(page: Any) -> Any:
    return page.locator("[col-id='metrics.`val/mIoU`'].ag-cell", has_text=".")


def _run_name(page: Any) -> Any:
    return page.get_by_role("link", name="fcn_hr")


def _curve(page: Any) -> Any:
    return page.locator(".js-plotly-plot .scatterlayer .trace")


if __name__ == "__main__":
    sys.exit(main())
