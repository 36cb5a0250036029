"""An MLflow server killed with SIGKILL in the middle of a recorder's stream, away for a minute: no gap, no duplicate.

Needs no Ray: a thread that records as a training does, at a steady rate, a real server in a process of its own. Shown
is the longest time that a `record` took, which is all that a training could notice, and the curve afterwards.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.integration.chaos.showing import add_output, show, workplace, write

PAUSE: Final = 0.1
"""Seconds between two steps."""
BLOCKED: Final = 0.5
"""A `record` that takes longer waited for something; below it is what a loaded machine does to any thread."""


def main(argv: list[str] | None = None) -> int:
    """Run, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--away", type=float, default=60.0, help="seconds without a server (default 60)")
    add_output(parser)
    args = parser.parse_args(argv)
    with workplace(args.folder) as folder:
        figures = _measure(folder, args.away)
    show([figures])
    write(args.json, figures)
    sound = figures["gaps"] == 0 and figures["duplicates"] == 0 and figures["delivered"]
    return 0 if sound and figures["longest_record_ms"] < 1e3 * BLOCKED else 1


def _measure(folder: Path, away: float) -> dict[str, Any]:
    from orchestrator.recorder import Recorder
    from orchestrator.tracking import Tracker
    from tests.orchestrator.mlflow_store import Server

    (folder / "server").mkdir()
    server = Server(folder / "server")
    server.start()
    try:
        tracker = Tracker(server.uri, "away")
        run_id = tracker.start_run("stream", "stream")
        recorder = Recorder(server.uri, run_id, tracker.start_ms(run_id), folder=folder / "spool")
        times: list[float] = []
        ended = threading.Event()

        def stream() -> None:
            while not ended.wait(PAUSE):
                began = time.perf_counter()
                recorder.record({"train/loss": 1.0 / (len(times) + 1), "train/lr": 0.01}, len(times))
                times.append(time.perf_counter() - began)

        thread = threading.Thread(target=stream)
        thread.start()
        time.sleep(5.0)
        server.kill()
        time.sleep(away)
        server.start()
        time.sleep(5.0)
        ended.set()
        thread.join()
        delivered = recorder.close(120.0)
        steps = [int(p.step) for p in tracker.client.get_metric_history(run_id, "train/loss")]
    finally:
        server.kill()
    return {
        "steps": len(times),
        "seconds_away": away,
        "stored": len(steps),
        "gaps": len(set(range(len(times))) - set(steps)),
        "duplicates": len(steps) - len(set(steps)),
        "delivered": delivered,
        "longest_record_ms": round(1e3 * max(times), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
