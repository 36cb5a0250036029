"""A grid over two hosts, one of which is cut off: `python -m tests.integration.hosts`.

The hosts are Linux namespaces with networks of their own, so it needs root. The same grid is submitted twice from a
third machine; the second time the second host is cut off in the middle of a step until Ray has given it up, then for
a moment, and then from the storage alone. At the end a third job is stopped. `--folder DIR` keeps all logs.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from jobs._smoke import draw_missing
from tests.integration.chaos import showing
from tests.integration.hosts.grid import CELLS, DATASETS, Grid
from tests.integration.hosts.machine import can_make_machines
from tests.integration.hosts.scenes import Scene, compare, cut_long, cut_short, storage_lost
from tests.integration.hosts.site import HEALTH, Site, open_site
from tests.integration.hosts.watch import Watcher, wait_for


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    showing.add_output(parser)
    parser.add_argument("--cells", type=int, choices=(1, 2), default=2, help="of the grid; 1: all cuts come to it")
    args = parser.parse_args()
    if not can_make_machines():
        print("this needs root and the programs unshare, nsenter, setpriv and ip, to make machines of namespaces")
        return 2
    began = time.monotonic()
    with showing.workplace(args.folder) as folder, open_site(folder) as site:
        with Watcher(site) as watcher:
            wait_for(lambda: bool(watcher.alive), "the second host joins Ray")
        draw_missing(f"{site.bucket}/data", DATASETS, train=16, val=4)
        _say(began, "two hosts, S3 and MLflow are up")
        figures = _figures(site, CELLS[: args.cells], began)
    seconds = round(time.monotonic() - began, 1)
    right = _right(figures)
    print(f"\n{'right' if right else 'WRONG'}, {seconds:.0f} s")
    showing.write(args.json, {**figures, "health": HEALTH, "seconds": seconds, "right": right})
    return 0 if right else 1


def _figures(site: Site, cells: Sequence[str], began: float) -> dict[str, Any]:
    unbroken, broken = Grid(site, "unbroken", cells), Grid(site, "broken", cells)
    unbroken.submit()
    wait_for(lambda: unbroken.ended() is not None, "the unbroken grid ends")
    if unbroken.ended():
        raise RuntimeError(f"the unbroken grid failed:\n{unbroken.last_words()}")
    _say(began, "the unbroken grid has ended")
    # A trial has the same key in both grids, so only what is seen from here on belongs to the broken one.
    with Watcher(site) as watcher:
        scenes = _scenes(site, broken, watcher, began)
        wait_for(lambda: broken.ended() is not None, "the broken grid ends")
    _say(began, f"the broken grid has ended with exit code {broken.ended()}")
    rows = [compare(broken, unbroken, watcher, key) for key in dict.fromkeys(scene.key for scene in scenes)]
    print()
    showing.show([{name: value for name, value in row.items() if name != "differences"} for row in rows])
    print()
    showing.show([_facts(scene) for scene in scenes])
    for row in rows:
        for told in row["differences"]:
            print(f"{row['cell']}: {told}")
    print(flush=True)
    stopped = _stopped(site)
    _say(began, f"a job that was stopped: {', '.join(f'{name} {value}' for name, value in stopped.items())}")
    return {
        "exit_code": broken.ended(), "cells": rows, "scenes": [dataclasses.asdict(scene) for scene in scenes],
        "stopped": stopped, "jobs": site.run("jobs").stdout.splitlines(),
    }  # fmt: skip


def _scenes(site: Site, grid: Grid, watcher: Watcher, began: float) -> list[Scene]:
    """Submit the grid and do to it what is to be done: the long cut to the first cell, the rest to the last."""
    grid.submit()
    first = _next_trial(grid, set())
    scenes = [cut_long(site, grid, watcher, first)]
    _tell(began, scenes[-1])
    last = _next_trial(grid, {first}) if len(grid.cells) > 1 else first
    for play in (cut_short, storage_lost):
        scenes.append(play(site, grid, watcher, last))
        _tell(began, scenes[-1])
    return scenes


def _next_trial(grid: Grid, done: set[str]) -> str:
    """Wait until a trial that is not in `done` trains; return its key."""

    def training() -> list[str]:
        return [key for key in grid.trials() if key not in done and grid.step(key) > 0]

    wait_for(lambda: bool(training()) or grid.ended() is not None, "a cell trains")
    if grid.ended() is not None:
        raise RuntimeError(f"the grid ended too early:\n{grid.last_words()}")
    return training()[0]


def _stopped(site: Site) -> dict[str, Any]:
    """Submit a long cell, and stop it from the operator's machine."""
    grid = Grid(site, "stopped", CELLS[:1], iterations=2000)
    grid.submit()
    key = _next_trial(grid, set())
    said = grid.stop()
    wait_for(lambda: grid.ended() is not None, "logs -f of the stopped job ends")
    (cell,) = grid.status()
    return {
        "stop says": said, "logs -f ends with": grid.ended(), "state": cell["state"], "step": cell["step"],
        "run": grid.evidence(key).status,
    }  # fmt: skip


def _tell(began: float, scene: Scene) -> None:
    _say(began, f"{scene.what} at step {scene.step} (worker 0 on {scene.worker0}): trains again")


def _facts(scene: Scene) -> dict[str, Any]:
    left_out = {"key", "began", "cell"}
    return {name: value for name, value in dataclasses.asdict(scene).items() if name not in left_out}


def _right(figures: dict[str, Any]) -> bool:
    rows, (long, *others) = figures["cells"], figures["scenes"]
    spans = all(row["hosts of each gang"].replace("2", "").strip(", ") == "" for row in rows)
    # Only the long cut costs an attempt.
    attempts = [row["attempts"] for row in rows] == [2, 1][: len(rows)] and long["given_up"] is not None
    trains = all(scene["meanwhile"] or scene["training"] is not None for scene in (long, *others))
    stopped = (figures["stopped"]["state"], figures["stopped"]["run"]) == ("stopped", "KILLED")
    return (
        all(row["equal"] for row in rows) and spans and attempts and trains and stopped and figures["exit_code"] == 0
    )


def _say(began: float, what: str) -> None:
    print(f"{time.monotonic() - began:5.0f} s  {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
