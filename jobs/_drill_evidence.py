"""What two runs of a cell left behind, and whether it is the same: losses step by step, weights, status."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Ledger
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.workload import Json

__all__ = [
    "Evidence",
    "Mark",
    "curve_faults",
    "differences",
    "gather",
    "lost_seconds",
    "read_marks",
    "redone",
    "resumed",
    "worker_starts",
]

CLOCKED: Final = frozenset({"train/data_wait", "train/images_per_s", "speed/fps", "speed/train_mem_gb"})
"""Metrics that no two runs have in common."""


@dataclass(frozen=True, order=True, slots=True)
class Mark:
    """An event of a training, as rank 0's log has it."""

    time: float
    """Seconds since the epoch."""
    kind: str
    """What the workload calls it; `start` for the start of a worker."""
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What one run of a cell left behind."""

    curves: Mapping[str, Sequence[tuple[int, float]]]
    """Metric to its points (step, value) in tracking, in order of step."""
    weights: str
    """SHA-256 of the final weights; empty without a checkpoint."""
    status: str
    """Of the tracking run; several with a comma if there are several runs, which is wrong."""
    state: str
    """Of the ledger."""


def read_marks(contents: Iterable[bytes]) -> list[Mark]:
    """Read the training events of logs in JSON lines; a line that several of them have counts once."""
    logs = list(contents)
    marks = [Mark(started, "start", 0) for started, _ in worker_starts(logs)]
    for entry in _entries(logs):
        if entry.get("phase") == "train":
            marks.append(Mark(float(entry["time"]), str(entry["kind"]), int(entry["step"])))
    return sorted(marks)


def worker_starts(contents: Iterable[bytes]) -> list[tuple[float, int]]:
    """Read when a worker started (seconds since the epoch), and as which process, once per attempt."""
    notes = [entry for entry in _entries(contents) if entry["kind"] == "note" and "pid" in entry]
    return sorted((float(note["time"]), int(note["pid"])) for note in notes if " starts on " in note["text"])


def _entries(contents: Iterable[bytes]) -> list[dict[str, Json]]:
    lines = {line for content in contents for line in content.splitlines()}
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a process that was killed while it wrote
            entries.append(json.loads(line))
    return entries


def resumed(marks: Sequence[Mark], since: float) -> tuple[float, int] | None:
    """When the first step after the next start of a worker was trained, and which; None if there is none yet."""
    start = next((mark.time for mark in marks if mark.kind == "start" and mark.time > since), None)
    if start is None:
        return None
    return next(((mark.time, mark.step) for mark in marks if mark.kind == "progress" and mark.time > start), None)


def redone(marks: Sequence[Mark], since: float = 0.0, until: float = float("inf")) -> int:
    """Count the steps between two moments that had been trained before."""
    seen: set[int] = set()
    again = 0
    for mark in marks:
        if mark.kind == "progress":
            again += mark.step in seen and since <= mark.time < until
            seen.add(mark.step)
    return again


def lost_seconds(marks: Sequence[Mark], unbroken: Sequence[Mark], since: float, until: float = float("inf")) -> float:
    """Seconds that the steps between two moments took longer than in an unbroken run; NaN if there are none."""
    first = {mark.step: mark.time for mark in reversed(unbroken) if mark.kind == "progress"}
    steps = [mark for mark in marks if mark.kind == "progress"]
    before = [mark for mark in steps if mark.time <= since]
    within = [mark for mark in steps if since < mark.time < until]
    begin, end = (before or steps)[-1 if before else 0], max(within, key=lambda mark: mark.step, default=None)
    if end is None or begin.step not in first or end.step not in first:
        return float("nan")
    return (end.time - begin.time) - (first[end.step] - first[begin.step])


def gather(places: Settings, key: str) -> Evidence:
    """Collect what tracking and storage hold of a trial; raises a TrackingError or StorageError if one is away."""
    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    tracker.check()
    storage = Storage(places.storage)
    runs = [run for run in tracker.runs() if run.key == key]
    curves = {}
    for run in runs:
        for name in run.metrics:
            history = tracker.client.get_metric_history(run.run_id, name)
            curves[name] = sorted((int(point.step), float(point.value)) for point in history)
    return Evidence(
        curves=curves,
        weights=_weights(storage, key),
        status=", ".join(run.status for run in runs) or "none",
        state=Ledger(storage).state(key),
    )


def curve_faults(evidence: Evidence, reference: Evidence) -> tuple[int, int]:
    """Count the points of training and validation that are there twice, and those that are missing."""
    doubles = gaps = 0
    for name, points in reference.curves.items():
        if not name.startswith(("train/", "val/")):
            continue
        steps = Counter(step for step, _ in evidence.curves.get(name, ()))
        wanted = Counter(step for step, _ in points)
        doubles += sum((steps - wanted).values())
        gaps += sum((wanted - steps).values())
    return doubles, gaps


def differences(evidence: Evidence, reference: Evidence) -> list[str]:
    """Say in what a run differs from an unbroken one; empty when losses, scores, weights and states are equal."""
    told = []
    if evidence.weights != reference.weights or not evidence.weights:
        told.append(f"final weights {evidence.weights[:12] or 'missing'} instead of {reference.weights[:12] or 'any'}")
    for name in sorted(reference.curves):
        if name.startswith(("train/", "val/")) and name not in CLOCKED:
            told += _unequal(name, evidence.curves.get(name, ()), reference.curves[name])
    doubles, gaps = curve_faults(evidence, reference)
    if doubles or gaps:
        told.append(f"{doubles} points of the curves are there twice, {gaps} are missing")
    if (evidence.state, evidence.status) != ("finished", "FINISHED"):
        told.append(f"the ledger says {evidence.state} and tracking says {evidence.status}, not finished and FINISHED")
    return told


def _unequal(name: str, points: Sequence[tuple[int, float]], wanted: Sequence[tuple[int, float]]) -> list[str]:
    """Compare values at the steps that both have; steps that are missing or there twice are counted elsewhere."""
    values = dict(wanted)
    other = [(step, value) for step, value in points if step in values and values[step] != value]
    if not other:
        return []
    step, value = other[0]
    more = f" and at {len(other) - 1} more steps" if len(other) > 1 else ""
    return [f"{name} is {value!r} instead of {values[step]!r} at step {step}{more}"]


def _weights(storage: Storage, key: str) -> str:
    """SHA-256 over names, types and bytes of the newest checkpoint's weights."""
    from hrnet.training.state import read_recipe

    with tempfile.TemporaryDirectory(prefix="hrgrid-drill-") as folder:
        checkpoint = CheckpointStore(storage, key).latest(Path(folder))
        if checkpoint is None:
            return ""
        weights = read_recipe(checkpoint.path)[2]
        digest = hashlib.sha256()
        for name, tensor in sorted(weights.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()
