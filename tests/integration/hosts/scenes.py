"""What is done to the second host while a gang trains, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jobs._drill_evidence import Mark, curve_faults, differences, redone
from tests.integration.hosts.grid import INTERVAL, Grid
from tests.integration.hosts.site import Site
from tests.integration.hosts.watch import Watcher, wait_for

__all__ = ["Scene", "compare", "cut_long", "cut_short", "storage_lost"]

LONG_SECONDS: Final = 45.0
"""Of a cut after which Ray has given the node up."""
SHORT_SECONDS: Final = 5.0
"""Of a cut that TCP survives."""
STORAGE_SECONDS: Final = 30.0


@dataclass(kw_only=True, slots=True)
class Scene:
    """One cut, in figures."""

    what: str
    cell: str
    key: str
    worker0: str
    """Machine of worker 0, which alone records and keeps checkpoints."""
    step: int
    """The last step trained before."""
    began: float
    """Seconds since the epoch."""
    cut: float = 0.0
    """Seconds that it lasted."""
    given_up: float | None = None
    """Seconds from the cut until Ray called the node dead; None: it never did."""
    gang_gone: float | None = None
    """Seconds from the cut until no worker of the gang lived, the one on the other host included."""
    node_back: float | None = None
    """Seconds from the end of the cut until Ray had the node again."""
    training: float | None = None
    """Seconds from the end of the cut until the next step."""
    meanwhile: int = 0
    """Steps trained during the cut."""


def cut_long(site: Site, grid: Grid, watcher: Watcher, key: str) -> Scene:
    """Cut the second host off until Ray has given it up, and bring it back."""
    wait_for(lambda: bool(watcher.gangs_of(key)), "Ray tells of the gang")
    (node,), (gang,) = watcher.alive, watcher.gangs_of(key)
    scene = _play(f"second host cut off for {LONG_SECONDS:.0f} s", grid, key, LONG_SECONDS, site.second.cut_off,
                  site.second.bring_back)  # fmt: skip
    back = time.time()
    wait_for(lambda: bool(watcher.alive - {node}), "the second host joins Ray again")
    scene.node_back = time.time() - back
    scene.given_up = watcher.lost[node] - scene.began if node in watcher.lost else None
    _wait_for_training(grid, scene, back)
    scene.gang_gone = gang.seen - scene.began
    return scene


def cut_short(site: Site, grid: Grid, watcher: Watcher, key: str) -> Scene:
    """Cut the second host off for less than Ray and TCP take for the end."""
    nodes = set(watcher.alive)
    scene = _play(f"second host cut off for {SHORT_SECONDS:.0f} s", grid, key, SHORT_SECONDS, site.second.cut_off,
                  site.second.bring_back)  # fmt: skip
    _wait_for_training(grid, scene, scene.began + scene.cut)
    scene.given_up = next((watcher.lost[node] - scene.began for node in nodes if node in watcher.lost), None)
    return scene


def storage_lost(site: Site, grid: Grid, watcher: Watcher, key: str) -> Scene:
    """Let all that the second host sends to the storage vanish, while everybody else reaches it."""
    scene = _play(f"no S3 from the second host for {STORAGE_SECONDS:.0f} s", grid, key, STORAGE_SECONDS,
                  lambda: site.second.lose(site.store), lambda: site.second.find(site.store))  # fmt: skip
    if not scene.meanwhile:  # the rest may have been trained by now
        _wait_for_training(grid, scene, scene.began + scene.cut)
    return scene


def compare(grid: Grid, unbroken: Grid, watcher: Watcher, key: str) -> dict[str, Any]:
    """A trial of the broken grid beside the unbroken one."""
    (other,) = (known for known, cell in unbroken.trials().items() if cell == grid.trials()[key])
    evidence, reference = grid.evidence(key), unbroken.evidence(other)
    doubles, gaps = curve_faults(evidence, reference)
    attempts = sum(mark.kind == "start" for mark in grid.marks(key))
    return {
        "cell": grid.trials()[key],
        "attempts": attempts,
        "hosts of each gang": ", ".join(str(len(gang.hosts)) for gang in watcher.gangs_of(key)),
        "weights": evidence.weights[:16],
        "unbroken": reference.weights[:16],
        "equal": not differences(evidence, reference),
        "redone": redone(grid.marks(key)),
        "doubles": doubles,
        "gaps": gaps,
        "status": f"{evidence.state}/{evidence.status}",
        "differences": differences(evidence, reference),
    }


def _play(what: str, grid: Grid, key: str, seconds: float, down: Callable[[], None], up: Callable[[], None]) -> Scene:
    """Wait for the middle between two checkpoints, and do it."""
    reached = grid.step(key)
    moment = (reached // INTERVAL + 1) * INTERVAL + INTERVAL // 2
    wait_for(lambda: grid.step(key) >= moment, f"step {moment} is trained")
    step, began = grid.step(key), time.time()
    scene = Scene(what=what, cell=grid.trials()[key], key=key, worker0=grid.first_worker(key), step=step, began=began)
    down()
    try:
        time.sleep(seconds)
    finally:
        up()
    scene.cut = time.time() - began
    scene.meanwhile = len([mark for mark in _steps(grid, key) if began < mark.time < began + scene.cut])
    return scene


def _wait_for_training(grid: Grid, scene: Scene, since: float) -> None:
    def later() -> list[Mark]:
        return [mark for mark in _steps(grid, scene.key) if mark.time > since]

    wait_for(lambda: bool(later()) or grid.ended() is not None, "training goes on")
    steps = later()
    scene.training = steps[0].time - since if steps else None


def _steps(grid: Grid, key: str) -> list[Mark]:
    return [mark for mark in grid.marks(key) if mark.kind == "progress"]
