"""Kills at random moments over one grid: `python -m tests.integration.chaos.random_kills [--kills 30] [--seed N]`.

Eight cells on gangs of one and two; workers, trial drivers, launchers and Ray's servers die by chance, a launch that
is gone is run again, until everything is finished. Then every cell must be finished once, as if nothing had happened.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from jobs._drill_evidence import read_marks
from jobs._family import Victim, descendants, end, victims
from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children
from tests.integration.chaos import showing

CELLS: Final = 8
WEIGHTS: Final[Mapping[str, int]] = {"worker": 4, "driver": 2, "launcher": 2, "gcs": 1, "raylet": 1}
"""How often which role is hit, where all are there."""
AT_ONCE: Final = 0.25
"""Share of kills that do not wait for training to go on after the one before."""
MOST_SECONDS: Final = 8.0
"""Longest time from there to the kill."""
PATIENCE: Final = 120.0
"""Seconds without training after which one kills all the same."""
LIMIT: Final = 2400.0
"""Seconds after which the grid is given up."""


class Grid:
    """A grid, its launches and what they leave; a context manager that ends what still runs."""

    def __init__(self, folder: Path, name: str, sleep: float) -> None:
        self.results = f"{folder}/{name}"
        self.storage = Storage(self.results)
        self.ledger = Ledger(self.storage)
        self.log = folder / f"{name}.log"
        self.launches = 0
        self._home = folder / "home"
        # Short, as Ray makes sockets below; also where the workers keep the logs that tell how far they are.
        self._temporary = Path(tempfile.mkdtemp(prefix="hrgrid"))
        self._arguments = [self.results, "*", "--workers", "thick-*=2", "--set", f"sleep={sleep}"]
        self._launch: subprocess.Popen[bytes] | None = None
        self._family: set[psutil.Process] = set()

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_: object) -> None:
        self.remember()
        if self._launch is not None:
            self._launch.kill()
            self._launch.wait()
        end(self._family)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def start(self) -> None:
        self.launches += 1
        command = [sys.executable, "-m", "tests.integration.chaos.grid_launch", *self._arguments]
        environment = children.environment(self._home, TMPDIR=str(self._temporary), RAY_worker_niceness="0")
        with self.log.open("ab") as output:
            self._launch = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def runs(self) -> bool:
        return self._launch is not None and self._launch.poll() is None

    def wait(self) -> None:
        while self.runs():
            self.remember()
            time.sleep(0.3)

    def remember(self) -> None:
        if self._launch is not None:
            self._family |= set(descendants(self._launch.pid))

    def targets(self) -> list[Victim]:
        """Whom one can kill now."""
        assert self._launch is not None
        try:
            return [Victim(role="launcher", process=psutil.Process(self._launch.pid)), *victims(self._launch.pid)]
        except psutil.NoSuchProcess:
            return []

    def trained_since(self, moment: float) -> bool:
        contents = []
        for file in self._temporary.glob("hrgrid-*/rank0.jsonl"):
            try:
                contents.append(file.read_bytes())
            except FileNotFoundError:
                continue
        return any(mark.kind == "progress" and mark.time > moment for mark in read_marks(contents))

    def states(self) -> dict[str, str]:
        return {entry.cell: self.ledger.state(entry.key) for entry in self.ledger.benchmark("bench")}

    def finished(self) -> bool:
        states = self.states()
        return len(states) == CELLS and set(states.values()) == {"finished"}

    def left(self) -> list[str]:
        """Names of processes of the launches that still run, Ray's agents aside, which look for work now and then."""
        _, alive = psutil.wait_procs(self._family, timeout=30)
        return sorted(process.name() for process in alive if "Agent" not in process.name())


def kill_at_random(grid: Grid, kills: int, chance: random.Random) -> list[dict[str, Any]]:
    """Hit the grid so many times, starting it again when it is gone; returns what was hit, and when."""
    began, done, last = time.time(), [], 0.0
    grid.start()
    while time.time() - began < LIMIT:
        if not grid.runs():
            if grid.finished():
                break
            grid.start()
        if len(done) == kills:
            grid.wait()
            continue
        if chance.random() >= AT_ONCE:
            waited = time.time()
            while grid.runs() and not grid.trained_since(last) and time.time() - waited < PATIENCE:
                grid.remember()
                time.sleep(0.3)
        time.sleep(chance.uniform(0.0, MOST_SECONDS))
        grid.remember()
        found: dict[str, list[Victim]] = {}
        for victim in grid.targets() if grid.runs() else ():
            found.setdefault(victim.role, []).append(victim)
        roles = sorted(set(found) & set(WEIGHTS))
        if not roles:
            continue
        role = chance.choices(roles, [WEIGHTS[role] for role in roles])[0]
        victim = chance.choice(found[role])
        last = time.time()
        victim.kill()
        states = Counter(grid.states().values())
        done.append({"kill": len(done) + 1, "seconds": last - began, "role": role, "launch": grid.launches})
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        print(
            f"kill {len(done):2} after {last - began:4.0f} s: {role:8} of launch {grid.launches}; {told}", flush=True
        )
    return done


def inspect(grid: Grid, reference: Grid) -> list[dict[str, Any]]:
    """What each cell left behind, beside the grid that nobody hit."""
    rows = []
    usual = {entry.cell: entry.key for entry in reference.ledger.benchmark("bench")}
    trackers = [Tracker(f"{each.results}/mlflow.db", "bench") for each in (grid, reference)]
    for entry in grid.ledger.benchmark("bench"):
        result = grid.ledger.result(entry.key) or {}
        runs = [run for run in trackers[0].runs() if run.key == entry.key]
        (wanted,) = (run for run in trackers[1].runs() if run.key == usual[entry.cell])
        log = (grid.storage.find_bytes(f"trials/{entry.key}/logs/rank0.log") or b"").decode()
        rows.append(
            {
                "cell": entry.cell,
                "state": result.get("state", "none"),
                "runs": len(runs),
                "status": ", ".join(run.status for run in runs),
                "attempts": log.count(" starts on "),
                "curve": len(runs) == 1 and _curve(trackers[0], runs[0].run_id) == _curve(trackers[1], wanted.run_id),
                "scores": result.get("metrics") == (reference.ledger.result(usual[entry.cell]) or {}).get("metrics"),
                "checkpoint": _checkpoint(grid, entry.key) == _checkpoint(reference, usual[entry.cell]),
            }
        )
    return rows


def _curve(tracker: Tracker, run_id: str) -> dict[str, list[tuple[int, float]]]:
    names = ("train/loss", "val/mIoU")
    return {n: sorted((p.step, p.value) for p in tracker.client.get_metric_history(run_id, n)) for n in names}


def _checkpoint(grid: Grid, key: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = CheckpointStore(grid.storage, key).latest(Path(folder))
        assert checkpoint is not None, f"{key} has no checkpoint"
        return (checkpoint.path / "state.json").read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--sleep", type=float, default=2.0, metavar="S", help="seconds per step (default %(default)s)")
    showing.add_output(parser)
    args = parser.parse_args()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    began = time.monotonic()
    with (
        showing.workplace(args.folder) as folder,
        Grid(folder, "unbroken", 0.0) as reference,
        Grid(folder, f"broken-{args.seed}", args.sleep) as grid,
    ):
        reference.start()
        reference.wait()
        if not reference.finished():
            print(f"the unbroken grid did not finish: {reference.states()}; see {reference.log}")
            return 1
        print(f"unbroken grid finished, {time.monotonic() - began:.0f} s", flush=True)
        kills = kill_at_random(grid, args.kills, random.Random(args.seed))
        rows, left = inspect(grid, reference), grid.left()
    once = all((row["state"], row["runs"], row["status"]) == ("finished", 1, "FINISHED") for row in rows)
    equal = all(row["curve"] and row["scores"] and row["checkpoint"] for row in rows)
    right = len(rows) == CELLS and len(kills) == args.kills and once and equal and not left
    print()
    showing.show(rows)
    hit = ", ".join(f"{count} {role}" for role, count in Counter(kill["role"] for kill in kills).most_common())
    print(f"\n{len(kills)} kills (seed {args.seed}: {hit}), {grid.launches} launches, left over: {left or 'nothing'}")
    print(f"{'right' if right else 'WRONG'}, {time.monotonic() - began:.0f} s")
    figures = {"seed": args.seed, "kills": kills, "cells": rows, "launches": grid.launches, "left": left}
    showing.write(args.json, {**figures, "right": right, "seconds": round(time.monotonic() - began, 1)})
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
