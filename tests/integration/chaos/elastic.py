"""Gangs that shrink and grow with a cluster of two machines: `python -m tests.integration.chaos.elastic`.

A cell that may have one or two workers loses its second machine with a notice, gets another, and loses that without a
notice; what it has trained is compared with an unbroken training. Then cells on a head without cores beside a machine
with many: where every actor lives, and what is said while there is no machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jobs._drill_cell import Rehearsal
from jobs._drill_evidence import redone, resumed
from orchestrator.deaths import DeathBook
from orchestrator.places import PLACE_SECONDS
from orchestrator.settings import Settings, make_settings
from orchestrator.tracking import Tracker
from tests.integration import children
from tests.integration.chaos import cluster, showing
from tests.integration.chaos.elastic_launch import SharingWorkload

STEPS: Final = 300
STEP_SECONDS: Final = 0.5
INTERVAL: Final = 20
"""Steps between two checkpoints."""
RESIZE_SECONDS: Final = 5.0
NOTICE_SECONDS: Final = 120.0
"""What a spot machine of AWS gets."""
INFEASIBLE_SECONDS: Final = 15.0
WORKER: Final = "RayTrainWorker"
CORES: Final = 8
"""Of the machine that offers much."""
ALIKE: Final = 1e-6
"""Largest relative difference that is taken for rounding (of float32)."""


class Cell(Rehearsal):
    """A cell of the fake workload that may have one or two workers of one core each."""

    def __init__(self, places: Settings, address: str, environment: dict[str, str], log: Path, steps: int) -> None:
        super().__init__(places, data="data", iterations=steps, log=log)
        self.environment |= {**environment, "RAY_ADDRESS": address}
        self._command = [
            sys.executable, "-m", "tests.integration.chaos.elastic_launch", places.storage, "thin-add-long",
            "--tracking", places.tracking, "--workers", "1-2", "--resize-seconds", str(RESIZE_SECONDS),
        ]  # fmt: skip
        self.changes = {"steps": str(steps), "interval": str(INTERVAL), "sleep": str(STEP_SECONDS), "batch": "6"}
        self.give(*(word for name, value in self.changes.items() for word in ("--set", f"{name}={value}")))


class Stage:
    """The cell on its cluster, and what is measured of it."""

    def __init__(self, cell: Rehearsal, nodes: cluster.Cluster) -> None:
        self.cell, self.nodes = cell, nodes

    def change(self, what: Callable[[], object], workers: int) -> dict[str, Any]:
        """Do something, and wait until a gang of so many workers trains."""
        before, asked = self._attempt(), time.time()
        what()
        began, step = time.time(), self.cell.step()

        def goes_on() -> bool:
            progress = self.cell.ledger.progress(self.cell.key) or {}
            new = progress.get("attempt", 0) > before and progress.get("workers") == workers
            return new and resumed(self.cell.marks(), began) is not None

        self.cell.wait(goes_on, f"it went on with {workers}")
        marks = self.cell.marks()
        found = resumed(marks, began)
        assert found is not None
        saved = [mark.step for mark in marks if mark.kind == "checkpoint" and asked < mark.time < found[0]]
        return {
            "workers": workers,
            "step": step,
            "saved_step": saved[-1] if saved else None,
            "seconds_to_next_step": round(found[0] - began, 1),
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


def shrink_and_grow(folder: Path, steps: int) -> dict[str, Any]:
    """Take a machine away with a notice, give one back, and take that away without."""
    settings = make_settings(storage=f"{folder}/gang", tracking=None, benchmark="bench", environment={})
    environment = cluster.token()
    inherited = {word: value for word, value in os.environ.items() if not word.startswith("RAY_")}
    with cluster.Cluster(folder / "gang-cluster", {**inherited, **environment}) as nodes:
        cell = Cell(settings, nodes.address, environment, folder / "gang.log", steps)
        nodes.environment["TMPDIR"] = cell.environment["TMPDIR"]
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
            redone_in_all = redone(cell.marks())
        finally:
            cell.close()
    return {
        "changes": rows,
        "exit_code": code,
        "steps_redone_in_all": redone_in_all,
        "groups_made": len(groups),
        "groups_left": sum(state != "REMOVED" for state in groups),
        **_compared(cell),
    }


def _join(nodes: cluster.Cluster) -> None:
    nodes.start_node()
    nodes.wait_until_ready()


def _compared(cell: Cell) -> dict[str, Any]:
    """What the run in MLflow says of its gangs, and how far its curves are from those of an unbroken training."""
    tracker = Tracker(cell.places.tracking, cell.places.benchmark, artifacts=cell.places.artifacts)
    tracker.check()
    run = tracker.find(cell.key)
    assert run is not None
    points = missing = doubles = 0
    apart = 0.0
    for name, wanted in _unbroken(cell).items():
        history = tracker.client.get_metric_history(run.run_id, name)
        steps = Counter(int(point.step) for point in history)
        points += len(wanted)
        missing += len(wanted.keys() - steps.keys())
        doubles += steps.total() - len(steps)
        apart = max(apart, *(abs(point.value - wanted[point.step]) / wanted[point.step] for point in history))
    return {
        "state": f"{cell.ledger.state(cell.key)}/{run.status}",
        "gangs": run.tags.get("hrgrid.attempts.workers"),
        "workers_at_last": run.tags.get("hrgrid.workers"),
        "points": points,
        "missing": missing,
        "doubles": doubles,
        "apart": apart,
    }


def _unbroken(cell: Cell) -> dict[str, dict[int, float]]:
    """Metric to step to value of a training in this process, by one worker."""
    workload = SharingWorkload()
    one = next(one for one in workload.cells() if one.name == "thin-add-long")
    spec = workload.resolve(one, {**cell.changes, "sleep": "0"}, seed=0, data="data")
    curves: dict[str, dict[int, float]] = {}
    for event in workload.train(spec, None, cpus=1):
        for name, value in event.metrics.items():
            curves.setdefault(name, {})[event.step] = value
    return curves


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


def wrong_of_gang(figures: dict[str, Any]) -> list[str]:
    """Say what is not as it should be of the gang that shrinks and grows."""
    changes = figures["changes"]
    noticed = {name: changes[name]["steps_redone"] for name in ("drained", "another machine")}
    deaths = [row["deaths"] for row in changes.values()]
    checks = {
        f"steps trained again at a notice: {noticed}": not any(noticed.values()),
        f"deaths counted at each change: {deaths}": deaths == [0, 0, 1],
        f"gangs of {figures['gangs']}": figures["gangs"] == "2, 1, 2, 1",
        f"it ended as {figures['state']}": figures["state"] == "finished/FINISHED",
        f"{figures['missing']} points missing, {figures['doubles']} double": not figures["missing"]
        + figures["doubles"],
        f"curves apart by {figures['apart']}": figures["apart"] <= ALIKE,
        f"{figures['groups_left']} placement groups left": not figures["groups_left"],
    }
    return [sentence for sentence, is_right in checks.items() if not is_right]


def wrong_of_places(figures: dict[str, Any]) -> list[str]:
    """Say what is not as it should be of where actors live, and of a gang without a place."""
    astray = [actor for actor in figures["actors"] if actor.endswith(" on spot") and not actor.startswith(WORKER)]
    sentences = figures.get("infeasible", {})
    checks = {
        f"beside the machine of the workers: {astray}": not astray,
        f"no worker was seen: {figures['actors']}": f"{WORKER} on spot" in figures["actors"],
        f"they ended as {figures['ended']}": set(figures["ended"].values()) == {"finished"},
        f"without a machine: {sentences}": all("found no place for" in str(told) for told in sentences.values()),
        f"{figures['groups_left']} placement groups left": not figures["groups_left"],
    }
    return [sentence for sentence, is_right in checks.items() if not is_right]


def _launch(words: list[str], folder: Path, environment: dict[str, str]) -> Any:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return children.start(words, home, "tests.integration.chaos.grid_launch", **environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the cell that shrinks and grows")
    parser.add_argument("--only", choices=("gang", "places", "places-without-budget"), help="a part alone")
    showing.add_output(parser)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    told: list[str] = []
    with showing.workplace(args.folder) as folder:
        if args.only in (None, "gang"):
            figures["gang"] = shrink_and_grow(folder, args.steps)
            _show("gang", figures["gang"])
            told += wrong_of_gang(figures["gang"])
        for name, budget in (("places", True), ("places-without-budget", False)):
            if args.only in (None, name):
                figures[name] = places(folder, budget=budget)
                _show(name, figures[name])
                told += wrong_of_places(figures[name])
        showing.write(args.json, {**figures, "wrong": told})
    print("\n" + ("\n".join(f"WRONG: {sentence}" for sentence in told) or "all as it should be"))
    return int(bool(told))


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
