"""Gangs that shrink and grow with a cluster of two machines: `python -m tests.integration.chaos.elastic`.

An HRNet cell that may have one or two workers loses its second machine with a notice, gets another, and loses that
without a notice; what it has trained is compared with the unbroken run on two workers. Then cells of the fake
workload on a head without cores beside a machine with many: where every actor lives, and what is said without it.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jobs._drill_cell import INTERVAL, Rehearsal
from jobs._drill_evidence import CLOCKED, Evidence, Mark, curve_faults, gather, redone, resumed
from orchestrator.deaths import DeathBook
from orchestrator.places import PLACE_SECONDS
from orchestrator.tracking import Tracker
from tests.integration import children
from tests.integration.chaos import cluster, showing
from tests.integration.chaos.theatre import Theatre

RESIZE_SECONDS: Final = 5
NOTICE_SECONDS: Final = 120.0
"""What a spot machine of AWS gets."""
INFEASIBLE_SECONDS: Final = 15.0
CORES: Final = 8
"""Of the machine that offers much."""
ALIKE: Final = 1e-4
"""Largest relative difference of losses, up to the first step that was trained with another number of workers."""


class Stage:
    """The cell on its cluster, and what is measured of it."""

    def __init__(self, cell: Rehearsal, nodes: cluster.Cluster) -> None:
        self.cell, self.nodes = cell, nodes

    def change(self, what: Callable[[], object], workers: int) -> dict[str, Any]:
        """Do something, and wait until a gang of so many workers trains."""
        before = self._attempt()
        began, step = time.time(), self.cell.step()
        what()
        done = time.time()

        def goes_on() -> bool:
            progress = self.cell.ledger.progress(self.cell.key) or {}
            new = progress.get("attempt", 0) > before and progress.get("workers") == workers
            return new and resumed(self.cell.marks(), began) is not None

        self.cell.wait(goes_on, f"it went on with {workers}")
        marks = self.cell.marks()
        found = resumed(marks, began)
        assert found is not None
        saved = next((mark for mark in marks if mark.kind == "checkpoint" and began < mark.time < found[0]), None)
        return {
            "workers": workers,
            "step": step,
            "saved_step": None if saved is None else saved.step,
            "seconds_to_save": None if saved is None else round(saved.time - began, 1),
            "seconds_to_next_step": round(found[0] - began, 1),
            "of_these_for_the_change": round(done - began, 1),
            "next_step": found[1],
            "steps_redone": redone(marks, began, found[0] + 0.001),
            "deaths": DeathBook(self.cell.ledger.storage, self.cell.key, self._owner()).known().total,
        }

    def train(self, steps: int) -> None:
        """Wait until so many more steps are trained, and the next stands between two checkpoints."""
        step = self.cell.step() + steps
        self.cell.wait_for_step(step - step % INTERVAL + INTERVAL // 2)

    def _attempt(self) -> int:
        return int((self.cell.ledger.progress(self.cell.key) or {}).get("attempt", 0))

    def _owner(self) -> str:
        return str((self.cell.ledger.progress(self.cell.key) or {}).get("owner"))


def shrink_and_grow(theatre: Theatre, iterations: int) -> dict[str, Any]:
    """Take a machine away with a notice, give one back, and take that away without."""
    cell = theatre.cell("elastic", iterations, environment=cluster.token())
    with cluster.Cluster(theatre.folder / "elastic-cluster", cell.environment) as nodes:
        cell.give("--workers", "1-2", "--resize-seconds", str(RESIZE_SECONDS), "--address", nodes.address)
        nodes.start_head()
        nodes.wait_until_ready(cores=1)
        spot = nodes.start_node()
        nodes.wait_until_ready()
        stage, rows = Stage(cell, nodes), {}
        try:
            cell.start()
            stage.train(INTERVAL)
            found = nodes.census()
            (name,) = set(found["nodes"]) - {found["head"]}
            rows["drained"] = stage.change(lambda: nodes.drain(name, NOTICE_SECONDS), 1)
            spot.kill()
            stage.train(INTERVAL)
            rows["another machine"] = stage.change(lambda: _join(nodes), 2)
            stage.train(INTERVAL)
            rows["killed"] = stage.change(nodes.nodes[-1].kill, 1)
            code = cell.wait_for_end()
            groups = nodes.census()["groups"]
        finally:
            cell.close()
        tracker = Tracker(cell.places.tracking, cell.places.benchmark, artifacts=cell.places.artifacts)
        tracker.check()
        run = tracker.find(cell.key)
        reference, _ = theatre.reference(iterations)
        evidence = gather(cell.places, cell.key)
        marks = cell.marks()
    return {
        "changes": rows,
        "exit_code": code,
        "state": f"{evidence.state}/{evidence.status}",
        "gangs": run.tags.get("hrgrid.attempts.workers") if run else None,
        "workers_at_last": run.tags.get("hrgrid.workers") if run else None,
        "groups_left": sum(state != "REMOVED" for state in groups),
        "groups_made": len(groups),
        **compare(evidence, reference, marks, rows["drained"]["next_step"]),
    }


def _join(nodes: cluster.Cluster) -> None:
    nodes.start_node()
    nodes.wait_until_ready()


def compare(evidence: Evidence, reference: Evidence, marks: list[Mark], change: int) -> dict[str, Any]:
    """Compare with the unbroken run: points, and the largest relative difference of training losses."""
    doubles, gaps = curve_faults(evidence, reference)
    names = [name for name in reference.curves if name.startswith("train/") and name not in CLOCKED]
    apart: dict[int, float] = {}
    for name in names:
        here = dict(evidence.curves.get(name, ()))
        for step, value in reference.curves[name]:
            apart[step] = max(apart.get(step, 0.0), abs(here.get(step, math.nan) - value) / max(abs(value), 1e-12))
    scores = {
        name: (evidence.curves[name][-1][1], reference.curves[name][-1][1])
        for name in reference.curves
        if name.startswith("val/") and name in evidence.curves
    }
    return {
        "doubles": doubles,
        "gaps": gaps,
        "steps_redone_in_all": redone(marks),
        "apart_before_the_first_change": max(d for step, d in apart.items() if step < change),
        "apart_at_the_first_step_after": apart[change],
        "apart_at_most": max(apart.values()),
        "last_losses": {name: (evidence.curves[name][-1][1], reference.curves[name][-1][1]) for name in names},
        "last_scores": scores,
    }


def places(folder: Path, *, budget: bool) -> dict[str, Any]:
    """See where drivers, controllers and helpers live beside a machine with many cores, and what is said without."""
    environment = {**cluster.token(), PLACE_SECONDS: "5"}
    name = "budget" if budget else "no-budget"
    inherited = {word: value for word, value in os.environ.items() if not word.startswith("RAY_")}
    figures: dict[str, Any] = {}
    with cluster.Cluster(folder / f"{name}-cluster", {**inherited, **environment}) as nodes:
        nodes.start_head(cores=0, budget=budget)
        nodes.wait_until_ready(cores=0)
        environment["RAY_ADDRESS"] = nodes.address
        words = [f"{folder}/{name}", "thin-add-long", "thick-add-long", "--workers", "2"]
        words += ["--set", "steps=60", "--set", "interval=20", "--set", "sleep=1.0", "--slots", "4"]
        if budget:
            given_up = [*words, "--infeasible-seconds", str(INFEASIBLE_SECONDS)]
            began = time.monotonic()
            document = children.finish(_launch(given_up, folder, environment), timeout=400)
            figures["infeasible_seconds"] = round(time.monotonic() - began, 1)
            figures["infeasible"] = {cell: told["error"] for cell, told in document["outcomes"].items()}
            figures["advice"] = next(told["advice"] for told in document["outcomes"].values())
        nodes.start_node(cores=CORES)
        nodes.wait_until_ready(cores=CORES)
        launch = _launch(words, folder, environment)
        seen: Counter[tuple[str, str]] = Counter()
        try:
            while launch.poll() is None:
                found = nodes.census()
                seen |= Counter((one, "head" if node == found["head"] else "spot") for one, node in found["actors"])
            document = children.finish(launch)
        finally:
            children.end(launch)
        figures["ended"] = {cell: told["state"] for cell, told in document["outcomes"].items()}
        figures["actors"] = {f"{one} on {where}": number for (one, where), number in sorted(seen.items())}
        figures["groups_left"] = sum(state != "REMOVED" for state in nodes.census()["groups"])
    return figures


def _launch(words: list[str], folder: Path, environment: dict[str, str]) -> Any:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return children.start(words, home, "tests.integration.chaos.grid_launch", **environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=200, help="of the cell that shrinks and grows")
    parser.add_argument("--only", choices=("gang", "places", "places-without-budget"), help="a part alone")
    showing.add_output(parser)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with showing.workplace(args.folder) as folder:
        if args.only in (None, "gang"):
            with Theatre(folder) as theatre:
                figures["gang"] = shrink_and_grow(theatre, args.iterations)
            _show("gang", figures["gang"])
        for name, budget in (("places", True), ("places-without-budget", False)):
            if args.only in (None, name):
                figures[name] = places(folder, budget=budget)
                _show(name, figures[name])
        showing.write(args.json, figures)
    return 0


def _show(name: str, figures: dict[str, Any]) -> None:
    print(f"\n{name}")
    for key, value in figures.items():
        if key == "changes":
            showing.show([{"change": change, **row} for change, row in value.items()])
        else:
            print(f"  {key}: {value}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
