"""How long a set of gangs takes on a number of slots: the schedule that the launcher follows, computed beforehand."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Schedule", "lower_bound", "simulate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """When each gang starts, and when the last one ends."""

    starts: tuple[float, ...]
    """Start of each gang in the order given, seconds from now."""

    finish: float
    """End of the last one, seconds from now."""


def simulate(durations: Sequence[float], gangs: Sequence[int], slots: int) -> Schedule:
    """Schedule gangs on slots, longest first: whenever slots are free, the longest waiting gang that fits starts.

    `durations` are seconds, `gangs` the slots that each needs at once. Raises ValueError if one never fits.
    """
    if len(durations) != len(gangs) or any(not 1 <= size <= slots for size in gangs):
        raise ValueError(f"each of {len(durations)} durations needs a gang of 1 to {slots} slots; got {list(gangs)}")
    waiting = sorted(range(len(gangs)), key=lambda i: (-durations[i], i))
    starts = [0.0] * len(gangs)
    running: list[tuple[float, int]] = []  # a heap of (end, slots)
    now, free = 0.0, slots
    while waiting:
        late = []
        for i in waiting:
            if gangs[i] > free:
                late.append(i)
                continue
            starts[i], free = now, free - gangs[i]
            heapq.heappush(running, (now + durations[i], gangs[i]))
        waiting = late
        if waiting:
            now, size = heapq.heappop(running)
            free += size
            while running and running[0][0] == now:
                free += heapq.heappop(running)[1]
    finish = max((start + length for start, length in zip(starts, durations, strict=True)), default=0.0)
    return Schedule(starts=tuple(starts), finish=finish)


def lower_bound(durations: Sequence[float], gangs: Sequence[int], slots: int) -> float:
    """Return the seconds below which no schedule can come: all the work spread evenly, or the longest gang."""
    work = sum(length * size for length, size in zip(durations, gangs, strict=True))
    return max(work / slots, max(durations, default=0.0))
