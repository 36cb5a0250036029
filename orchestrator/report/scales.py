"""From values to places on a picture: linear and logarithmic scales with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

__all__ = ["Scale", "Tick", "compact"]

Tick = tuple[float, str]
"""Place on the picture, and label."""

_ROUND = (1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Maps values from `low` to `high` to places from `start` to `end`, in units of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False
    ) -> Self:
        """A scale that holds all values, at least one, with some air at both ends; with `zero` it begins there.

        `log` needs positive values.
        """
        found = list(values)
        low, high = min(found), max(found)
        if log:
            air = max((high / low) ** 0.08, 1.15)
            return cls(low=low / air, high=high * air, start=start, end=end, log=True)
        if zero:
            return cls(low=0.0, high=1.08 * high or 1.0, start=start, end=end)
        air = 0.09 * (high - low) or max(0.5, 0.01 * abs(high))
        return cls(low=low - air, high=high + air, start=start, end=end)

    def place(self, value: float) -> float:
        """Where a value lies, to a tenth of a unit."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * (at - low) / (high - low), 1)

    def ticks(self, most: int) -> list[Tick]:
        """At most `most` round values with their places."""
        values = self._decades(most) if self.log else self._steps(most)
        return [(self.place(value), compact(value)) for value in values]

    def _steps(self, most: int) -> list[float]:
        span = self.high - self.low
        size = 10.0 ** math.floor(math.log10(span / most))
        step = next(size * by for by in (*_ROUND, 10.0, 20.0) if span / (size * by) <= most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)][:most]

    def _decades(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for shares in (_ROUND, (1.0, 3.0), (1.0,)):
            values = [share * 10.0**n for n in range(first, last + 1) for share in shares]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= most:
                return inside if len(inside) > 1 else self._steps(min(most, 4))
        return inside[:: math.ceil(len(inside) / most)]


def compact(value: float) -> str:
    """Return a round number in few letters: 40000 is 40k."""
    if value and abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{round(value, 6):g}"
