"""One thing that several contestants do, measured in turns: who is asked, how long, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hrnet.suite.machine import Busy
from hrnet.suite.peer import Peer, Task

__all__ = ["PEER", "Contest", "Contestant", "Entry", "Goal", "Repeating", "Row", "Spread", "Unit", "compete"]

PEER = "peer"
"""Name of the peer among the contestants."""

_REST = 0.05
"""Seconds between two turns, in which the threads that the one before left spinning go to sleep."""

_LONG = 20.0
"""Seconds of a turn after which its contestant gets no other: arithmetic that the processor has to emulate."""

Unit = Literal["ms", "s", "per s", "x"]
"""How a figure is shown: a time per item, items per second, or a plain ratio."""


class Contestant(Protocol):
    """Something that is ready to be measured."""

    @property
    def memory(self) -> float | None:
        """Peak memory on a GPU, in 1e9 bytes."""

    def turn(self, seconds: float) -> Sequence[float]:
        """Work for about so long, at least once; returns seconds per item of each repetition (for `x`, the ratio)."""

    def output(self) -> NDArray[Any] | None:
        """What is computed, where there is something to compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a figure should reach (DESIGN.md section 7); what is None is not asked for."""

    ratio: float | None = None
    """So many times as good as the peer, or better."""
    most: float | None = None
    """No more than this, in the figure's unit."""
    equal: float | None = None
    """At least this share of pixels with the peer's class, in percent."""
    memory: float | None = None
    """At most this share of the peer's memory, where both were measured."""

    def text(self) -> str:
        """The goal in a table's cell."""
        parts = []
        if self.ratio is not None:
            parts.append(f">= {self.ratio:g}x")
        if self.most is not None:
            parts.append(f"<= {self.most:g}")
        if self.equal is not None:
            parts.append(f">= {self.equal:g} %")
        if self.memory is not None:
            parts.append(f"memory <= {self.memory:g}x")
        return ", ".join(parts)

    def reached(
        self, ratio: Spread | None, ours: Spread, equal: float | None, memory: float | None, peer_memory: float | None
    ) -> bool | None:
        """Whether all that is asked for and was measured is reached; None if nothing of it was measured."""
        verdicts = []
        if self.ratio is not None and ratio is not None:
            verdicts.append(ratio.median >= self.ratio)
        if self.most is not None:
            verdicts.append(ours.median <= self.most)
        if self.equal is not None and equal is not None:
            verdicts.append(equal >= self.equal)
        if self.memory is not None and memory is not None and peer_memory is not None:
            verdicts.append(memory <= self.memory * peer_memory)
        return all(verdicts) if verdicts else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One of our own ways to do the thing."""

    open: Callable[[], AbstractContextManager[Contestant]]
    """Makes it ready; what it holds is let go when the context ends."""
    goal: Goal = field(default_factory=Goal)
    """What it should reach."""
    floor: float | None = None
    """Seconds per item that the arithmetic alone takes at the measured speed of matrix products."""
    note: str = ""
    """A word for the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """What is done, by whom."""

    part: str
    """The part of the suite."""
    case: str
    """What is done, at which size."""
    unit: Unit
    """How the figures are shown."""
    entries: Mapping[str, Entry]
    """Ours, by the name of the way."""
    peer: Task | None = None
    """What the peer is asked to do; None where it has no like."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The turns of one contestant: each counts as its median."""

    median: float
    """Median of the turns."""
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    turns: tuple[float, ...]
    """The median of each turn, in the order they were taken."""

    @classmethod
    def of(cls, turns: Sequence[float]) -> Spread:
        """Quartiles of the turns."""
        low, median, high = np.percentile(turns, (25, 50, 75)).tolist()
        return cls(median=median, low=low, high=high, turns=tuple(turns))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table."""

    part: str
    case: str
    way: str
    unit: Unit
    ours: Spread
    """In the unit."""
    peer: Spread | None
    """The peer's, in the same turns."""
    ratio: Spread | None
    """So many times as good as the peer, round by round."""
    goal: str
    reached: bool | None
    """None where there is no goal or nothing to hold against it."""
    limit: float | None
    """Share of the machine's measured arithmetic speed that was reached, 0..1."""
    equal: float | None
    """Percent of pixels with the same class as the peer's."""
    memory_gb: float | None
    """Peak memory on a GPU, in 1e9 bytes."""
    peer_memory_gb: float | None
    note: str
    load: float
    """Processes that wanted to run, on the average of the last minute, when the contest began: the others' work."""
    stolen: float
    """Share of processor time that the host gave to others meanwhile, in percent."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


class Repeating:
    """A step that is repeated."""

    def __init__(
        self,
        step: Callable[[], int],
        *,
        wait: Callable[[], None] = lambda: None,
        output: Callable[[], NDArray[Any]] | None = None,
        memory: float | None = None,
    ) -> None:
        """`step` returns its number of items, `wait` when the work that was begun is done."""
        self._step = step
        self._wait = wait
        self._output = output
        self.memory = memory

    def turn(self, seconds: float) -> list[float]:
        """Seconds per item of each step: one that is not counted unless it is long, then for about so long."""
        taken: list[float] = []
        end = time.perf_counter() + seconds
        warm_up, items = self.once()
        if warm_up > _LONG / 4:
            return [warm_up / items]
        while not taken or time.perf_counter() < end:
            elapsed, items = self.once()
            taken.append(elapsed / items)
        return taken

    def once(self) -> tuple[float, int]:
        """Take one step; returns its seconds and items."""
        began = time.perf_counter()
        items = self._step()
        self._wait()
        return time.perf_counter() - began, items

    def output(self) -> NDArray[Any] | None:
        """What the step computes."""
        return None if self._output is None else self._output()


def compete(contest: Contest, peer: Peer | None, *, rounds: int, seconds: float) -> Generator[str, None, list[Row]]:
    """Measure everybody in turns, back and forth; yields who is next and returns a row for each of our ways."""
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {}
        if peer is not None and contest.peer is not None:
            contestants[PEER] = stack.enter_context(peer.open(contest.peer))
        for name, entry in contest.entries.items():
            contestants[name] = stack.enter_context(entry.open())
        turns: dict[str, list[float]] = {name: [] for name in contestants}
        long: set[str] = set()
        busy = Busy()
        for number in range(rounds):
            for name in contestants if number % 2 == 0 else reversed(contestants):
                if name in long:
                    continue
                yield f"{contest.part}: {contest.case}, {name}"
                time.sleep(_REST)
                began = time.perf_counter()
                turns[name].append(float(np.median(contestants[name].turn(seconds))))
                if time.perf_counter() - began > _LONG:
                    long.add(name)
        expected = contestants[PEER].output() if PEER in contestants else None
        return [
            _row(contest, name, entry, turns, contestants, expected, busy) for name, entry in contest.entries.items()
        ]


def _row(
    contest: Contest,
    name: str,
    entry: Entry,
    turns: Mapping[str, Sequence[float]],
    contestants: Mapping[str, Contestant],
    expected: NDArray[Any] | None,
    busy: Busy,
) -> Row:
    own, theirs = np.array(turns[name]), np.array(turns.get(PEER, ()))
    paired = min(len(own), len(theirs))
    ratio = Spread.of((theirs[:paired] / own[:paired]).tolist()) if paired else None
    output = None if expected is None else contestants[name].output()
    equal = None if output is None or expected is None else 100 * float((output == expected).mean())
    memory, peer_memory = contestants[name].memory, contestants[PEER].memory if theirs.size else None
    ours = Spread.of([_shown(value, contest.unit) for value in own])
    return Row(
        part=contest.part, case=contest.case, way=name, unit=contest.unit, ours=ours,
        peer=Spread.of([_shown(value, contest.unit) for value in theirs]) if theirs.size else None,
        ratio=ratio, goal=entry.goal.text(), limit=entry.floor and entry.floor / float(np.median(own)),
        reached=entry.goal.reached(ratio, ours, equal, memory, peer_memory), equal=equal,
        memory_gb=memory, peer_memory_gb=peer_memory, note=entry.note, load=busy.load(), stolen=busy.stolen(),
    )  # fmt: skip


def _shown(seconds: float, unit: Unit) -> float:
    return {"ms": 1000 * seconds, "s": seconds, "per s": 1 / seconds, "x": seconds}[unit]
