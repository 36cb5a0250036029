"""A published or earlier curve beside a run, and the rule that says when the run falls far below it. Pure.

The rule flags and never stops: a reference may have had other data, luck or a bug. Runs of the same recipe that differ
by their seed alone end 0.5 to 2 points of mIoU apart and are further apart on the way, most of all in the first
validations, where the learning rate is high. So:

- the run is compared at the same fraction of its schedule, the reference's curve interpolated;
- the tolerance shrinks along the schedule from 15 to 3 points (`tolerance`);
- a run is flagged when its last two validations are both below by more than the tolerance, or its last one by more
  than two and a half times that; nothing is said in the first 5 % of the schedule, which hold the warm-up;
- or when its training loss, averaged over 5 % of the schedule, is more than twice the reference's in the last two such
  windows: implementations differ in what they divide by (ignored pixels or not), which is far from a factor of two,
  and a mean over a window does not jump; nothing is said before 10 % of the schedule;
- the flag is taken back as soon as the rule no longer holds.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.workload import Json

__all__ = ["DRAWN_POINTS", "LOSS", "PREFIX", "SCORE", "Curve", "Reference", "judge", "tolerance"]

Curve = tuple[tuple[int, float], ...]
"""(step, value) pairs in ascending order of the step."""

SCORE: Final = "val/mIoU"
LOSS: Final = "train/loss"
PREFIX: Final = "reference/"
"""Before a metric's name in the tracking store, so that a chart shows both."""

DRAWN_POINTS: Final = 400
"""Points of one curve that are recorded at most: more than a chart has pixels for, little beside a run's own."""

_QUIET: Final = 0.05
_QUIET_LOSS: Final = 0.1
"""Fractions of the schedule before which nothing is said."""
_FIRST_TOLERANCE: Final = 15.0
_LAST_TOLERANCE: Final = 3.0
_VERY: Final = 2.5
_WINDOW: Final = 0.05
"""Fraction of the schedule that a training loss is averaged over."""
_WINDOW_POINTS: Final = 3
"""A mean of fewer says nothing."""
_LOSS_FACTOR: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The curves of another training of (nearly) the same recipe."""

    source: str
    """Where they are from, for people: a path, an address or a run."""

    sha256: str
    """SHA-256 of the file in hexadecimal; empty for a run of the own storage."""

    total: int
    """Steps of the reference's whole schedule."""

    curves: Mapping[str, Curve]
    """Metric name, the same as the run's own, to its curve."""

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> Reference:
        """The reference that `to_json` wrote; raises KeyError or TypeError for anything else."""
        curves = {
            name: tuple((int(step), float(value)) for step, value in curve)
            for name, curve in document["curves"].items()
        }
        return cls(
            source=str(document["source"]),
            sha256=str(document["sha256"]),
            total=int(document["total"]),
            curves=curves,
        )

    def to_json(self) -> dict[str, Json]:
        """Plain values."""
        curves = {name: [list(point) for point in curve] for name, curve in self.curves.items()}
        return {"source": self.source, "sha256": self.sha256, "total": self.total, "curves": curves}

    def drawn(self, total: int) -> dict[str, Curve]:
        """What is shown beside a run of `total` steps: its steps, at most DRAWN_POINTS of every curve."""
        curves = {
            name: _thinned([point for point in curve if point[0] <= total]) for name, curve in self.curves.items()
        }
        return {name: curve for name, curve in curves.items() if curve}


def tolerance(fraction: float) -> float:
    """Points of mIoU that a run may be below its reference at a fraction of the schedule."""
    return _LAST_TOLERANCE + (_FIRST_TOLERANCE - _LAST_TOLERANCE) * (1.0 - min(1.0, max(0.0, fraction)))


def judge(own: Mapping[str, Curve], total: int, reference: Reference) -> str:
    """Return one sentence with numbers if a run of `total` steps is far below its reference now, else nothing.

    `own` are the run's curves so far. A metric that one of the two does not have is not judged.
    """
    return _judge_score(own.get(SCORE, ()), total, reference) or _judge_loss(own.get(LOSS, ()), total, reference)


def _judge_score(own: Curve, total: int, reference: Reference) -> str:
    below = [_below(point, total, reference) for point in own[-2:]]
    if not below or below[-1] is None:
        return ""
    gap, allowed = below[-1]
    twice = len(below) == 2 and all(each is not None and each[0] > each[1] for each in below)
    if not twice and gap <= _VERY * allowed:
        return ""
    step, value = own[-1]
    return f"{SCORE} {value:.1f} at iteration {step} is {gap:.0f} points below the reference's {value + gap:.1f}"


def _below(point: tuple[int, float], total: int, reference: Reference) -> tuple[float, float] | None:
    """How far a validation is below the reference, and how far it may be; None where that is not judged."""
    fraction = point[0] / total
    theirs = _at(reference.curves.get(SCORE, ()), fraction * reference.total)
    return None if fraction < _QUIET or theirs is None else (theirs - point[1], tolerance(fraction))


def _judge_loss(own: Curve, total: int, reference: Reference) -> str:
    if not own or own[-1][0] / total < _QUIET_LOSS:
        return ""
    curve, end, told = reference.curves.get(LOSS, ()), own[-1][0] / total, ""
    for number in (1, 0):  # the window before the last one, then the last one
        until = end - number * _WINDOW
        ours = _mean(own, (until - _WINDOW) * total, until * total)
        theirs = _mean(curve, (until - _WINDOW) * reference.total, until * reference.total)
        if ours is None or theirs is None or ours <= _LOSS_FACTOR * theirs:
            return ""
        span = f"iterations {round((until - _WINDOW) * total)} to {round(until * total)}"
        told = f"{LOSS} {ours:.3g} over the {span} is {ours / theirs:.1f} times the reference's {theirs:.3g}"
    return told


def _at(curve: Curve, step: float) -> float | None:
    """The curve's value at a step, interpolated between two points; None before the first, the last one after it."""
    if not curve or step < curve[0][0]:
        return None
    place = bisect.bisect_left(curve, step, key=lambda point: point[0])
    if place == len(curve) or curve[place][0] == step:
        return curve[min(place, len(curve) - 1)][1]
    left, right = curve[place - 1], curve[place]
    return left[1] + (right[1] - left[1]) * (step - left[0]) / (right[0] - left[0])


def _mean(curve: Curve, after: float, until: float) -> float | None:
    values = [value for step, value in curve if after < step <= until + 0.5]
    return sum(values) / len(values) if len(values) >= _WINDOW_POINTS else None


def _thinned(points: Sequence[tuple[int, float]]) -> Curve:
    """Evenly chosen points, the first and the last among them."""
    if len(points) <= DRAWN_POINTS:
        return tuple(points)
    places = (round(i * (len(points) - 1) / (DRAWN_POINTS - 1)) for i in range(DRAWN_POINTS))
    return tuple(points[place] for place in places)
