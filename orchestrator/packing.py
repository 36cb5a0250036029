"""How long a set of gangs takes on a number of slots: the schedule that the launch follows, computed beforehand."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.dispatch import Dispatch, Gang

__all__ = ["CLOSE", "Schedule", "attempts", "best_order", "lower_bound", "simulate"]

EFFORT = 60_000
"""Gangs started in all simulations of one search: about a second, whatever the size of the grid."""

CLOSE = 1.001
"""A finish this near the bound is not worth a search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """When each gang starts, and when the last one ends."""

    starts: tuple[float, ...]
    """Start of each gang in the order given, seconds from now."""

    sequence: tuple[int, ...]
    """The gangs in the order in which they start."""

    finish: float
    """End of the last one, seconds from now."""


def simulate(gangs: Sequence[Gang], slots: int) -> Schedule:
    """Follow the policy with gangs in the order given, each of which ends when it is expected to.

    Raises ValueError if a gang never fits or if its duration is unknown.
    """
    seconds = [gang.seconds for gang in gangs if gang.seconds is not None]
    if len(seconds) < len(gangs):
        raise ValueError(f"{len(gangs) - len(seconds)} of {len(gangs)} durations are unknown")
    policy = Dispatch(gangs, slots)
    starts, sequence = [0.0] * len(gangs), []
    ends: list[tuple[float, int]] = []
    now = finish = 0.0
    while True:
        while (index := policy.start(now)) is not None:
            starts[index] = now
            sequence.append(index)
            finish = max(finish, now + seconds[index])
            heapq.heappush(ends, (now + seconds[index], index))
        if not ends:
            return Schedule(starts=tuple(starts), sequence=tuple(sequence), finish=finish)
        now = ends[0][0]
        while ends and ends[0][0] == now:
            policy.end(heapq.heappop(ends)[1])


def lower_bound(gangs: Sequence[Gang], slots: int) -> float:
    """Return the seconds below which no schedule can come.

    The largest of: all the work spread evenly; the longest gang; and, for every size, the gangs of at least that size
    as many at once as fit. A gang of unknown duration counts as nothing, which keeps the bound true.
    """
    work = sum((gang.seconds or 0.0) * gang.size / gang.share for gang in gangs)
    bounds = [work / slots, max((gang.seconds or 0.0 for gang in gangs), default=0.0)]
    for size in {gang.size for gang in gangs if gang.size > 1}:
        bounds.append(sum(gang.seconds or 0.0 for gang in gangs if gang.size >= size) / (slots // size))
    return max(bounds)


def attempts(count: int) -> int:
    """Return how many changes a search shall try on so many gangs: few on a handful, and few on very many."""
    return min(200 * count, EFFORT // max(1, count))


def best_order(gangs: Sequence[Gang], slots: int, known: Sequence[int] | None = None) -> list[int]:
    """Return the order in which the policy shall consider the gangs: longest first, or better.

    Where longest first does not come near the bound, others are tried: one that is `known`, most work first, largest
    first, then changes at two places of the best so far, drawn from a fixed seed, each kept if the simulated end is no
    later. The same gangs always give the same order.
    """
    everyone = range(len(gangs))
    length = [gang.seconds or 0.0 for gang in gangs]
    area = [length[i] * gangs[i].size / gangs[i].share for i in everyone]
    orders = [
        sorted(everyone, key=lambda i: (-length[i], -gangs[i].size, i)),
        *([list(known)] if known is not None else []),
        sorted(everyone, key=lambda i: (-area[i], i)),
        sorted(everyone, key=lambda i: (-gangs[i].size, -length[i], i)),
    ]
    enough = CLOSE * lower_bound(gangs, slots)
    best, finish = orders[0], _finish(gangs, orders[0], slots)
    for order in orders[1:]:
        if finish <= enough:
            return best
        other = _finish(gangs, order, slots)
        if other < finish:
            best, finish = order, other
    draw = random.Random(0)
    for _ in range(attempts(len(gangs))):
        if finish <= enough or len(gangs) < 3:
            break
        order = list(best)
        source, target = draw.randrange(len(order)), draw.randrange(len(order))
        if draw.random() < 0.5:
            order.insert(target, order.pop(source))
        else:
            order[source], order[target] = order[target], order[source]
        other = _finish(gangs, order, slots)
        if other <= finish:
            best, finish = order, other
    return best


def _finish(gangs: Sequence[Gang], order: Sequence[int], slots: int) -> float:
    return simulate([gangs[i] for i in order], slots).finish
