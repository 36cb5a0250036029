"""A small HRNet cell on two workers that is killed in the middle, and the unbroken run that it is compared with."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jobs._drill_cell import DrillError, Rehearsal
from jobs._drill_evidence import Evidence, Mark, curve_faults, differences, gather, lost_seconds, redone, resumed
from jobs._drill_faults import SETTLED, next_moment, status_of
from jobs._mlserver import Server
from jobs._smoke import draw_missing
from jobs.cli import COMMANDS
from orchestrator.settings import Settings

SHORT: Final = 40
"""Iterations of a cell that is killed once."""
LONG: Final = 120
"""Iterations of a cell under which something is away for a minute."""
LAUNCHES: Final = 4
"""Launches of a cell before it is given up."""


@dataclass(kw_only=True, slots=True)
class Row:
    """What was seen of one fault."""

    fault: str
    step: int = 0
    """The last step trained before."""
    next_step: float | None = None
    """Seconds from the fault to the next training step."""
    lost: float | None = None
    """Seconds that the rest took longer than in the unbroken run."""
    redone: int = 0
    weights: bool = False
    losses: bool = False
    doubles: int = 0
    """Points of the curves that are there twice."""
    gaps: int = 0
    """Points of the curves that are missing."""
    status: str = ""
    """Of ledger and tracking right after the fault, after `hrgrid reconcile` if nothing runs then, at the end."""
    launches: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Everything is as it should be."""
        ending = self.status.endswith("finished/FINISHED")
        return self.weights and self.losses and not self.doubles and not self.gaps and ending

    def figures(self) -> dict[str, Any]:
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "right": self.right}


class Theatre:
    """Data, MLflow server and unbroken runs that all rows share; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server.within(folder / "mlflow")
        self._references: dict[int, tuple[Evidence, list[Mark]]] = {}

    def __enter__(self) -> Theatre:
        draw_missing(str(self.folder / "data"), ["cityscapes"], train=16, val=4)
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()

    def cell(
        self,
        name: str,
        iterations: int,
        *,
        storage: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Rehearsal:
        """A cell with storage and tracking of its own, ready to start."""
        # One name per attempt, so that a row that is run again in a kept folder is a new experiment.
        label = f"{name}-{time.strftime('%H%M%S')}"
        return Rehearsal(
            Settings(
                storage=storage or str(self.folder / label),
                tracking=self.server.uri,
                artifacts=None,
                benchmark=label,
            ),
            data=str(self.folder / "data"),
            iterations=iterations,
            log=self.folder / f"{label}.log",
            environment={"OMP_NUM_THREADS": "1", **(environment or {})},
        )

    def reference(self, iterations: int) -> tuple[Evidence, list[Mark]]:
        """The unbroken run of so many iterations; a kept folder has it for later."""
        if iterations not in self._references:
            kept = self.folder / f"unbroken-{iterations}.json"
            if not kept.exists():
                kept.write_text(json.dumps(self._unbroken(iterations)))
            document = json.loads(kept.read_text())
            curves = {name: [(step, value) for step, value in c] for name, c in document["evidence"]["curves"].items()}
            self._references[iterations] = (
                Evidence(**{**document["evidence"], "curves": curves}),
                [Mark(*mark) for mark in document["marks"]],
            )
        return self._references[iterations]

    def _unbroken(self, iterations: int) -> dict[str, Any]:
        cell = self.cell(f"unbroken-{iterations}", iterations)
        try:
            cell.start()
            code = cell.wait_for_end()
            if code:
                raise cell.complaint(f"the unbroken run ended with exit code {code}")
            evidence, marks = gather(cell.places, cell.key), cell.marks()
        finally:
            cell.close()
        return {"evidence": dataclasses.asdict(evidence), "marks": [dataclasses.astuple(mark) for mark in marks]}


class Act:
    """One row in the making: the cell runs, something is done to it, and it is seen to its end."""

    def __init__(self, theatre: Theatre, row: Row, cell: Rehearsal) -> None:
        self.theatre, self.row, self.cell = theatre, row, cell
        self._time = 0.0
        self._statuses: list[str] = []

    def strike(self, what: Callable[[], object]) -> None:
        """Start the cell, wait for the middle between two checkpoints, and do it."""
        self.cell.start()
        self.cell.wait_for_step(next_moment(self.cell))
        self.cell.remember()
        self._time, self.row.step = time.time(), self.cell.step()
        what()
        time.sleep(SETTLED)
        self._statuses.append(status_of(self.cell))

    def wait_until_gone(self, seconds: float) -> None:
        """Wait until the launch has ended by itself; kill it, and say so, if it does not."""
        began = time.monotonic()
        while self.cell.ended() is None:
            if time.monotonic() - began > seconds:
                self.row.notes.append(f"the launch did not end within {seconds:.0f} s and was killed")
                self.cell.kill_launch()
            self.cell.remember()
            time.sleep(0.2)
        self.row.notes.append(f"launch gone after {time.time() - self._time:.0f} s, exit code {self.cell.ended()}")

    def reconcile(self) -> None:
        """Look at the statuses, run `hrgrid reconcile`, and look again."""
        self._statuses[-1] = status_of(self.cell)
        if "reconcile" not in COMMANDS:
            return
        places = self.cell.places
        words = ["reconcile", "--storage", places.storage, "--tracking", places.tracking, "--name", places.benchmark]
        command = [sys.executable, "-m", "jobs.cli", *words]
        with self.cell.log.open("ab") as output:
            code = subprocess.run(command, env=self.cell.environment, stdout=output, stderr=output, check=False)
        if code.returncode:
            self.row.notes.append(f"reconcile ended with exit code {code.returncode}")
        self._statuses.append(status_of(self.cell))

    def again(self) -> None:
        """Run the same command again."""
        self.row.launches += 1
        self.cell.start()

    def see_through(self, *, kill: bool = True) -> None:
        """Wait for the end, launching again what ends too early, and compare; `kill`: the gang had to start anew."""
        while code := self.cell.wait_for_end():
            self.row.notes.append(f"launch {self.row.launches} ended with exit code {code}")
            if self.row.launches == LAUNCHES:
                break
            self.again()
        marks = self.cell.marks()
        reference, usual = self.theatre.reference(self.cell.iterations)
        if kill:
            found = resumed(marks, self._time)
        else:
            found = next(
                ((mark.time, 0) for mark in marks if mark.kind == "progress" and mark.time > self._time), None
            )
        row = self.row
        row.next_step = None if found is None else found[0] - self._time
        row.lost = lost_seconds(marks, usual, self._time)
        row.redone = redone(marks, self._time)
        evidence = gather(self.cell.places, self.cell.key)
        row.weights = bool(evidence.weights) and evidence.weights == reference.weights
        row.doubles, row.gaps = curve_faults(evidence, reference)
        told = differences(evidence, reference)
        row.losses = not any(sentence.startswith(("train/", "val/")) for sentence in told)
        row.notes += told
        row.status = " > ".join([*self._statuses, f"{evidence.state}/{evidence.status}"])


def perform(theatre: Theatre, row: Row, cell: Rehearsal, act: Callable[[Act], None]) -> Row:
    """Play one row; a cell that does not get to its end is told in the row."""
    try:
        act(Act(theatre, row, cell))
    except DrillError as error:
        row.notes.append(str(error))
    finally:
        cell.close()
    return row
