"""The faults of a drill, one after the other in the middle of the cell, and what each of them cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from jobs._drill_cell import INTERVAL, Rehearsal
from jobs._drill_evidence import Mark, lost_seconds, redone, resumed
from orchestrator.errors import OrchestratorError
from orchestrator.tracking import Tracker

__all__ = ["SETTLED", "Cost", "Fault", "LocalFolder", "Outage", "break_down", "costs", "next_moment", "status_of"]

BEYOND: Final = INTERVAL // 2
"""Iterations after a checkpoint at which a fault comes, so that there are some to do again."""
SETTLED: Final = 1.0
"""Seconds after a kill at which one looks what is said of the run."""


class Outage(Protocol):
    """Something that can be taken away and put back."""

    def down(self) -> None:
        """Take it away."""

    def up(self) -> None:
        """Put it back, and return when it can be used."""


class LocalFolder:
    """A storage of this machine: away, a plain file lies in its place, so that nobody can make it anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._aside = folder.with_name(f"{folder.name}.away")

    def down(self) -> None:
        """Move the folder aside."""
        self.folder.rename(self._aside)
        self.folder.write_text("the storage is away for a while; hrgrid drill puts it back\n")

    def up(self) -> None:
        """Put the folder back."""
        if self._aside.exists():
            self.folder.unlink(missing_ok=True)
            self._aside.rename(self.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that was done to a running cell."""

    name: str
    time: float
    """Seconds since the epoch."""
    step: int
    """The last step trained before."""
    seen: str
    """What was observed, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a fault cost."""

    fault: Fault
    seconds: float
    """More than the same steps took in the unbroken run."""
    steps: int
    """Steps that were trained again."""


Report = Callable[[int, str], None]
"""Called with the last step, and what is being done."""


def break_down(
    rehearsal: Rehearsal, tracking: Outage | None, storage: Outage | None, seconds: float, report: Report
) -> list[Fault]:
    """Start the cell, do to it what can happen, and see it to its end; an outage that is None is left out.

    Raises:
        DrillError: the cell did not go on, or a launch ended before its end.
    """
    rehearsal.start()
    faults = [
        _kill(rehearsal, "worker", report),
        _kill(rehearsal, "trial driver", report),
        _kill(rehearsal, "launcher", report),
    ]
    for name, outage in (("tracking away", tracking), ("storage away", storage)):
        if outage is not None:
            faults.append(_take_away(rehearsal, name, outage, seconds, report))
    code = rehearsal.wait_for_end(lambda step: report(step, "to the end"))
    if code:
        raise rehearsal.complaint(f"the launch ended with exit code {code}")
    return faults


def costs(faults: Sequence[Fault], marks: Sequence[Mark], unbroken: Sequence[Mark]) -> list[Cost]:
    """Reckon what each fault cost until the next one, or until the end of the training."""
    ends = [fault.time for fault in faults[1:]] + [float("inf")]
    return [
        Cost(
            fault=fault,
            seconds=lost_seconds(marks, unbroken, fault.time, end),
            steps=redone(marks, fault.time, end),
        )
        for fault, end in zip(faults, ends, strict=True)
    ]


def status_of(rehearsal: Rehearsal) -> str:
    """What ledger and tracking say of the cell now; a store that is away says so."""
    places = rehearsal.places
    try:
        state = str(rehearsal.ledger.state(rehearsal.key))
    except OrchestratorError:
        state = "away"
    try:
        tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
        tracker.check()
        run = tracker.find(rehearsal.key)
    except OrchestratorError:
        return f"{state}/away"
    return f"{state}/{'none' if run is None else run.status}"


def next_moment(rehearsal: Rehearsal) -> int:
    """The next step that lies half-way between two checkpoints, and behind all that was trained so far."""
    reached = max((mark.step for mark in rehearsal.marks() if mark.kind == "progress"), default=0)
    step = (reached // INTERVAL + 1) * INTERVAL + BEYOND
    return min(step, rehearsal.iterations - 1)


def _kill(rehearsal: Rehearsal, name: str, report: Report) -> Fault:
    rehearsal.wait_for_step(next_moment(rehearsal), lambda step: report(step, f"before: {name} killed"))
    began, step = time.time(), rehearsal.step()
    match name:
        case "worker":
            rehearsal.worker(1).kill()
        case "trial driver":
            rehearsal.victim("driver").kill()
        case _:
            rehearsal.kill_launch()
    report(step, f"{name} killed")
    time.sleep(SETTLED)
    status = status_of(rehearsal)
    if name == "launcher":
        rehearsal.start()
    rehearsal.wait(
        lambda: resumed(rehearsal.marks(), began) is not None,
        f"training went on after the {name} was killed",
        lambda step: report(step, f"{name} killed"),
    )
    found = resumed(rehearsal.marks(), began)
    again, first = (began, step) if found is None else found
    seen = f"then {status}; step {first} trained {again - began:.1f} s later"
    return Fault(name=f"{name} killed", time=began, step=step, seen=seen)


def _take_away(rehearsal: Rehearsal, name: str, outage: Outage, seconds: float, report: Report) -> Fault:
    rehearsal.wait_for_step(next_moment(rehearsal), lambda step: report(step, f"before: {name}"))
    began, step = time.time(), rehearsal.step()
    outage.down()
    try:
        rehearsal.wait(
            lambda: time.time() - began >= seconds,
            f"the {seconds:.0f} s with {name} were over",
            lambda step: report(step, name),
        )
    finally:
        outage.up()
    gone, trained = time.time() - began, rehearsal.step() - step
    return Fault(name=name, time=began, step=step, seen=f"away for {gone:.0f} s, {trained} steps trained meanwhile")
