"""Gangs of several sizes: smaller while workers are missing, larger again when there is room for them.

The driver of a trial decides, between two attempts, so every size is a divisor of the batch, and every change of size
is an exact resume from a checkpoint. What finds a place is never reckoned but asked of Ray, by placement groups: a
gang that waits shows an autoscaler what is missing, and so does one that could be larger.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol, Self

from orchestrator.ledger import Ledger
from orchestrator.places import Place, a_gang_waits, reserve

if TYPE_CHECKING:
    from orchestrator.worker import Assignment

__all__ = ["Growth", "Ladder", "Room", "largest_now"]

LOOK_SECONDS: Final = 2.0
"""Between two looks at the places that a smaller gang could have beside its own."""
PLACING_SECONDS: Final = 5.0
"""What Ray gets to place what has room."""

_log = logging.getLogger(__name__)


class Ladder:
    """The places that lead from one size of a gang to the next larger ones, each step reserved on its own."""

    def __init__(self, key: str, each: Mapping[str, float], sizes: Sequence[int]) -> None:
        """`each`: resources of one worker. `sizes` ascend from the one that has its place already, which may be 0."""
        self._key, self._each, self._sizes = key, dict(each), tuple(sizes)
        self._steps: list[Place] = []

    def open(self) -> None:
        """Ask Ray for the places, unless that was done."""
        if not self._steps:
            steps = [larger - smaller for smaller, larger in pairwise(self._sizes)]
            self._steps = [reserve(self._key, [self._each] * step) for step in steps]

    def reached(self) -> int:
        """Return the largest size whose places are all there now."""
        size = self._sizes[0]
        for step, larger in zip(self._steps, self._sizes[1:], strict=False):
            if not step.is_there():
                break
            size = larger
        return size

    def close(self) -> None:
        """Give all places back."""
        for step in self._steps:
            step.free()
        self._steps = []


def largest_now(key: str, each: Mapping[str, float], sizes: Sequence[int]) -> int | None:
    """Return the largest of the sizes (ascending) that finds a place now, None if none does."""
    ladder = Ladder(key, each, (0, *sizes))
    try:
        ladder.open()
        deadline = time.monotonic() + PLACING_SECONDS
        while ladder.reached() < sizes[-1] and time.monotonic() < deadline:
            time.sleep(0.2)
        return ladder.reached() or None
    finally:
        ladder.close()


class Room(Protocol):
    """Places that a gang could have beside its own; see `Ladder`."""

    def open(self) -> None:
        """Ask for them."""

    def reached(self) -> int:
        """Return the size that the gang could have."""

    def close(self) -> None:
        """Give them back."""


class Growth:
    """Watches for room beside a gang that could be larger, and then asks it to save and end; a context manager.

    Room counts once it has been there for a while in which no gang waited for a place: who has none comes first, and
    gets what is reserved here.
    """

    def __init__(self, ledger: Ledger, job: Assignment, room: Room, seconds: float) -> None:
        """`seconds`: how long room must be there."""
        self.size = job.workers
        """That of the gang; once it is asked to make way, that of the one to come."""
        self._ledger, self._job, self._room, self._seconds = ledger, job, room, seconds
        self._seen = (job.workers, 0.0)
        self._asked = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hrgrid-growth", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30.0)
        self._room.close()

    def look(self, now: float, *, wanted: bool) -> int:
        """Return the size that there is room for, at a moment in seconds; the gang's own until it counts.

        Not `wanted`: the room is left to others.
        """
        if wanted:
            self._room.open()
        else:
            self._room.close()
        reached = self._room.reached() if wanted else self._job.workers
        if reached != self._seen[0]:
            self._seen = (reached, now)
        return reached if now - self._seen[1] >= self._seconds else self._job.workers

    def _work(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            try:
                attempt = self._attempt()
                size = self.look(time.monotonic(), wanted=attempt > 0 and not a_gang_waits())
                if size > self._job.workers and attempt != self._asked:
                    _log.info("trial %s: makes way for a gang of %d", self._job.key, size)
                    self.size = size
                    self._ledger.ask_regroup(self._job.key, self._job.lease, attempt)
                    self._asked = attempt
            except Exception as error:  # a gang that stays as it is does no harm
                _log.info("trial %s: no room is looked for: %s: %s", self._job.key, type(error).__name__, error)

    def _attempt(self) -> int:
        """The number of the attempt that trains with this size now, 0 if none does."""
        progress = self._ledger.progress(self._job.key) or {}
        here = (progress.get("lease"), progress.get("workers"), progress.get("phase"))
        return int(progress.get("attempt", 0)) if here == (self._job.lease, self._job.workers, "training") else 0
