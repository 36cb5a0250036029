"""Which waiting gang may start when slots are free: one policy for the simulation and for the launch.

First in order goes first. A gang that is next but does not fit gets a reservation: the moment at which, by the
expected ends of what runs, enough slots will be free. A gang behind it may start at once if that does not put the
reservation off (EASY backfilling, Lifka 1995). So neither do slots stand idle that nobody waits for, nor do small
gangs overtake a large one for ever. Nothing here knows Ray or a clock: who asks says what time it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PATIENCE_SECONDS", "Dispatch", "Gang"]

PATIENCE_SECONDS = 900.0
"""How long a gang that is next may be overtaken while nobody knows when what runs will end; then slots are kept free
until it fits. About what a few hundred iterations and a validation of the smallest cells take on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gang:
    """What the policy knows of a trial."""

    size: int
    """Slots that it needs at once (GPUs, or workers on CPUs)."""

    seconds: float | None = None
    """Expected duration; None: unknown."""

    share: int = 1
    """Gangs that share one slot. More than 1 only with `size` 1, and the same number for all that share."""

    @property
    def slots(self) -> float:
        """Slots taken: a fraction for one that shares, rounded down so that all sharers together fit one."""
        return float(self.size) if self.share == 1 else int(10_000 / self.share) / 10_000


@dataclass(slots=True)
class _Room:
    """Free slots, and the shared ones with seats taken; which of the shared a gang sits on."""

    free: int
    taken: list[int]
    seats: dict[int, int]

    def copy(self) -> _Room:
        return _Room(self.free, list(self.taken), dict(self.seats))

    def fits(self, gang: Gang) -> bool:
        return gang.size <= self.free or (gang.share > 1 and any(0 < taken < gang.share for taken in self.taken))

    def enter(self, index: int, gang: Gang) -> None:
        if gang.share == 1:
            self.free -= gang.size
            return
        # The fullest slot first, as Ray does: so whole slots become free again.
        open_slots = [slot for slot, taken in enumerate(self.taken) if 0 < taken < gang.share]
        if open_slots:
            slot = max(open_slots, key=self.taken.__getitem__)
        else:
            self.free -= 1
            slot = next((slot for slot, taken in enumerate(self.taken) if not taken), len(self.taken))
            self.taken[slot : slot + 1] = [0]
        self.taken[slot] += 1
        self.seats[index] = slot

    def leave(self, index: int, gang: Gang) -> None:
        if gang.share == 1:
            self.free += gang.size
            return
        slot = self.seats.pop(index)
        self.taken[slot] -= 1
        self.free += not self.taken[slot]


class Dispatch:
    """The policy with its state: who waits, who runs. Gangs are named by their index, and are given in order."""

    def __init__(self, gangs: Sequence[Gang], slots: int, *, patience: float = PATIENCE_SECONDS) -> None:
        """Raises ValueError if a gang never fits, or shares a slot and is more than one worker."""
        if any(not 1 <= gang.size <= slots for gang in gangs):
            sizes = [gang.size for gang in gangs]
            raise ValueError(f"each of {len(gangs)} gangs needs 1 to {slots} slots; got {sizes}")
        if len({gang.share for gang in gangs if gang.share > 1}) > 1 or any(g.share > 1 < g.size for g in gangs):
            raise ValueError("gangs that share a slot have one worker and one number of sharers")
        self._gangs, self._patience = tuple(gangs), patience
        self._room = _Room(slots, [], {})
        self._waiting = list(range(len(gangs)))
        self._smallest = min((gang.size for gang in gangs), default=1)
        self._ends: dict[int, float | None] = {}
        self._turn: tuple[int, float] | None = None
        self._halted = False

    def halt(self) -> None:
        """Start no further gang: whoever launched wants to stop."""
        self._halted = True

    @property
    def waiting(self) -> tuple[int, ...]:
        """Gangs that have not started, in order."""
        return tuple(self._waiting)

    @property
    def running(self) -> frozenset[int]:
        """Gangs that have started and not ended."""
        return frozenset(self._ends)

    def start(self, now: float) -> int | None:
        """Start the next gang that may, and return it; None while none may. Ask again until None."""
        place = None if self._halted else self._choose(now)
        if place is None:
            return None
        index = self._waiting.pop(place)
        gang = self._gangs[index]
        self._room.enter(index, gang)
        self._ends[index] = None if gang.seconds is None else now + gang.seconds
        return index

    def end(self, index: int) -> None:
        """Free the slots of a gang that runs; of one that does not, nothing happens."""
        if index in self._ends:
            del self._ends[index]
            self._room.leave(index, self._gangs[index])

    def reservation(self, now: float) -> float | None:
        """When the gang that is next will fit at the latest, by expected ends; None if nobody knows or none waits."""
        if not self._waiting:
            return None
        found = self._reserve(self._room, self._ends, now)
        return None if found is None else found[0]

    def _choose(self, now: float) -> int | None:
        """The place in the queue of the gang to start now."""
        if not self._waiting:
            return None
        head = self._waiting[0]
        if self._room.fits(self._gangs[head]):
            return 0
        if self._turn is None or self._turn[0] != head:
            self._turn = (head, now)
        if self._room.free < self._smallest and not self._room.seats:
            return None
        candidates = [(p, i) for p, i in enumerate(self._waiting) if p and self._room.fits(self._gangs[i])]
        if not candidates:
            return None
        found = self._reserve(self._room, self._ends, now)
        if found is None:
            return candidates[0][0] if now - self._turn[1] <= self._patience else None
        when, spare = found
        for place, index in candidates:
            gang = self._gangs[index]
            if gang.seconds is not None and now + gang.seconds <= when:
                return place
            if gang.size <= spare if gang.share == 1 else self._harmless(index, now, when):
                return place
        return None

    def _reserve(self, room: _Room, ends: dict[int, float | None], now: float) -> tuple[float, int] | None:
        """When the head fits, and the slots that are free beside it then."""
        head, room = self._gangs[self._waiting[0]], room.copy()
        if room.fits(head):
            return now, room.free - head.size
        # What is overdue may end at any moment: it is taken to end now, which lets nobody overtake because of it.
        known = sorted((max(now, end), index) for index, end in ends.items() if end is not None)
        for place, (end, index) in enumerate(known):
            room.leave(index, self._gangs[index])
            if room.fits(head) and (place + 1 == len(known) or known[place + 1][0] > end):
                return end, room.free - head.size
        return None

    def _harmless(self, index: int, now: float, when: float) -> bool:
        """A gang that shares a slot, and may keep it from becoming free: tried on a copy."""
        room, gang = self._room.copy(), self._gangs[index]
        room.enter(index, gang)
        ends = {**self._ends, index: None if gang.seconds is None else now + gang.seconds}
        found = self._reserve(room, ends, now)
        return found is not None and found[0] <= when
