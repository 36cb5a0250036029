"""What reports draw of a trial, kept small in storage, so that they need no tracking server.

trials/<key>/shown/curves.json      thinned curves, written at validations and at the end
trials/<key>/shown/<table>.json     copies of the small tables of its evaluation
trials/<key>/pictures/              pictures of its evaluation (orchestrator/ledger.py)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.errors import StorageError
from orchestrator.storage import Storage
from orchestrator.workload import Json

__all__ = ["CURVES", "KEPT_BYTES", "POINTS", "TABLES", "Curve", "Curves", "Exhibit", "table_copies"]

Curve = tuple[tuple[int, float], ...]
"""(step, value) pairs in ascending order of the step."""

CURVES: Final = ("train/loss", "val/mIoU")
"""Metrics whose curves are kept."""

TABLES: Final = ("per_class_iou.json", "images.json")
"""Tables below `eval/` among a trial's artifacts that are kept."""

POINTS: Final = 256
"""Points of a curve: one that has as many is thinned to half of them. A picture of a report is about as wide."""

KEPT_BYTES: Final = 1_000_000
"""A larger table is not kept."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Series:
    """A curve of any length in less than POINTS points, each of which stands for `width` of those that came."""

    mean: bool
    """Points are means of what they stand for (a noisy loss); else the last of it (a score is a fact)."""

    width: int = 1
    points: list[tuple[int, float]] = field(default_factory=list)
    pending: list[tuple[int, float]] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            return
        self.cut(step - 1)
        self.pending.append((step, value))
        if len(self.pending) < self.width:
            return
        self.points.append(self._one(self.pending))
        self.pending.clear()
        if len(self.points) == POINTS:
            self.points = [self._one(self.points[i : i + 2]) for i in range(0, POINTS, 2)]
            self.width *= 2

    def cut(self, step: int) -> None:
        """Forget what lies behind a step: it is done again."""
        while self.pending and self.pending[-1][0] > step:
            self.pending.pop()
        while self.points and self.points[-1][0] > step:
            self.points.pop()

    def drawn(self) -> list[tuple[int, float]]:
        """All points, the last one of what there is."""
        return [*self.points, *([self._one(self.pending)] if self.pending else [])]

    def _one(self, points: list[tuple[int, float]]) -> tuple[int, float]:
        value = sum(value for _, value in points) / len(points) if self.mean else points[-1][1]
        return points[-1][0], value


class Curves:
    """The curves of a trial, gathered by rank 0 while it trains."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage, self._path = storage, f"trials/{key}/shown/curves.json"
        self._series = {name: _Series(mean=name.startswith("train/")) for name in CURVES}
        self.seen = False
        """This attempt has added to them."""

    def resume(self, step: int) -> None:
        """Go on with the curves that lie in storage, up to a step; those that cannot be read begin anew."""
        if step == 0:
            return
        try:
            document = self._storage.find_json(self._path) or {}
            for name, series in self._series.items():
                known = document.get(name, {})
                series.width = int(known.get("width", 1))
                series.points = [(int(at), float(value)) for at, value in known.get("points", ())]
                series.cut(step)
        except (StorageError, AttributeError, TypeError, ValueError) as error:
            _log.warning("%s cannot be read, the curves of the report begin anew: %s", self._path, error)

    def see(self, metrics: Mapping[str, float], step: int) -> None:
        """Take what a step has measured; a step that is seen again replaces what was there from it on."""
        for name in CURVES:
            if name in metrics:
                self._series[name].add(step, float(metrics[name]))
                self.seen = True

    def snapshot(self) -> bytes:
        """Return the document as it is now."""
        document = {
            name: {"width": series.width, "points": [[step, float(f"{value:.5g}")] for step, value in series.drawn()]}
            for name, series in self._series.items()
        }
        return json.dumps(document, separators=(",", ":")).encode()


def table_copies(artifacts: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the name below `shown/` and content of those artifacts that are kept."""
    found = {name: artifacts[f"eval/{name}"] for name in TABLES if f"eval/{name}" in artifacts}
    return {name: content for name, content in found.items() if len(content) <= KEPT_BYTES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """What is drawn of one trial; all of it may be missing."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    """Metric name to its thinned curve."""

    classes: Mapping[str, float | None] = field(default_factory=dict)
    """Name of a class to its IoU in percent; None for a class that did not occur."""

    images: Mapping[str, float] = field(default_factory=dict)
    """Name of a validation image to its own mIoU in percent."""

    @classmethod
    def read(cls, storage: Storage, key: str) -> Exhibit:
        """Return what lies in storage of a trial; what is damaged is left out with a warning: it costs no report."""
        curves, classes, images = (_found(storage, f"trials/{key}/shown/{name}") for name in ("curves.json", *TABLES))
        try:
            return cls(
                curves={
                    str(name): tuple((int(step), float(value)) for step, value in curve["points"])
                    for name, curve in (curves or {}).items()
                    if curve["points"]
                },
                classes={str(one["name"]): _number(one["iou"]) for one in (classes or {}).get("classes", ())},
                images={str(one["name"]): float(one["mIoU"]) for one in images or () if one["mIoU"] is not None},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("trials/%s/shown: not as this version writes it, left out: %r", key, error)
            return cls()


def _found(storage: Storage, path: str) -> Json | None:
    try:
        return storage.find_json(path)
    except StorageError as error:
        _log.warning("left out of the report: %s", error)
        return None


def _number(value: Json) -> float | None:
    return None if value is None else float(value)
