"""What may be said of a score that stands beside a published one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from orchestrator.ledger import State

__all__ = ["DIGITS", "MEANINGS", "TOLERANCE", "UNFINISHED", "VERDICTS", "Sample", "Verdict", "finite", "judge"]

TOLERANCE = 0.5
"""Points of a score that a reproduction may be away from the published one: training again with another seed moves a
score by about as much."""

Verdict = Literal[
    "reproduced", "above", "below", "not comparable", "no published number", "failed", "running", "stopped", "not run"
]

VERDICTS: Mapping[Verdict, str] = {
    "reproduced": "\u2713", "above": "\u25b2", "below": "\u25bc", "not comparable": "\u2260",
    "no published number": "\u2013", "failed": "\u2715", "running": "\u25b6", "stopped": "\u25a0", "not run": "\u25cb",
}  # fmt: skip
"""Every verdict with the sign that tells it apart without colour, best first."""

MEANINGS: Mapping[Verdict, str] = {
    "reproduced": "not further from the published score than the tolerance",
    "above": "higher than the published score by more than the tolerance",
    "below": "lower than the published score by more than the tolerance",
    "not comparable": "trained or evaluated otherwise than the published score; the numbered reasons say how",
    "no published number": "finished; nobody has published a score to compare with",
    "failed": "ended with an error",
    "running": "training or evaluating now",
    "stopped": "ended before it was finished; launched again, it continues",
    "not run": "never started",
}
"""Every verdict in words."""

UNFINISHED: Mapping[State, Verdict] = {
    "running": "running", "failed": "failed", "stopped": "stopped", "interrupted": "stopped", "new": "not run",
}  # fmt: skip
"""What is said of a trial without a result; of several, the first found in this order."""

DIGITS = 6
"""Published scores have two decimals, so a gap of exactly the tolerance must not fall to binary rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The same score of several seeds."""

    mean: float
    """Their mean."""

    sd: float | None
    """Their sample standard deviation (divisor n - 1); None for a single one."""

    n: int
    """How many they are."""

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return the sample of the finite values, or None if there is none."""
        found = [value for value in map(finite, values) if value is not None]
        if not found:
            return None
        return cls(mean=statistics.fmean(found), sd=statistics.stdev(found) if len(found) > 1 else None, n=len(found))

    @property
    def tolerance(self) -> float:
        """Points that the mean may be away from the published score: two standard deviations, at least 0.5."""
        return TOLERANCE if self.sd is None else max(TOLERANCE, 2 * self.sd)


def judge(score: Sample, published: float) -> Verdict:
    """Say where a score stands beside the published one."""
    gap, tolerance = round(score.mean - published, DIGITS), round(score.tolerance, DIGITS)
    if gap < -tolerance:
        return "below"
    return "above" if gap > tolerance else "reproduced"


def finite(value: float | None) -> float | None:
    """The value if it is a finite number, otherwise None."""
    return None if value is None or not math.isfinite(value) else value
