"""A worker that makes no step any more shows where its threads stand, and ends itself so that its gang can restart.

A gang that hangs (a collective that one rank never joins, a file system that does not answer) burns its GPUs for ever
without an error. Every worker has its own watchdog, so all ranks of a hung gang leave their stacks behind.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["HANG_EXIT", "HANG_FILE", "Watchdog"]

HANG_EXIT: Final = 86
"""Exit code of a worker that ended itself."""
HANG_FILE: Final = "hang.json"
"""At trials/<key>/: what the watchdog of a worker of the trial said last."""
STEPS: Final = 20.0
"""Median steps without an event that are a hang, if they take longer than the least time."""
GRACE_SECONDS: Final = 5.0
"""Between the stacks and the end: the other ranks, which hang with this one, show theirs meanwhile."""
TELL_SECONDS: Final = 15.0
"""What telling may take: the storage may be what hangs."""

_WINDOW: Final = 101
_log = logging.getLogger(__name__)


class Watchdog:
    """Watches one worker from a thread of its own. Its owner tells it of every event."""

    def __init__(
        self,
        stacks: Path,
        tell: Callable[[str], None],
        *,
        least: float,
        first: float,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`least`: seconds without an event that are never a hang; `first`: the same before the first one.

        `stacks` is the file for the stacks of all threads. `tell` is given the sentence when that file is written, and
        may raise or hang.
        """
        self._stacks, self._tell, self._least, self._first, self._grace = stacks, tell, least, first, grace
        self._guard = threading.Lock()
        self._durations: deque[float] = deque(maxlen=_WINDOW)
        self._last = time.monotonic()
        self._limit: float | None = first
        self._stepped = False
        self._step = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hrgrid-watchdog", daemon=True)
        self._thread.start()

    def event(self, step: int, *, is_step: bool = False) -> None:
        """Note an event of the training after `step` iterations; `is_step`: it ends an iteration."""
        with self._guard:
            now = time.monotonic()
            if is_step and self._stepped:
                self._durations.append(now - self._last)
            self._stepped, self._step, self._last = is_step, step, now
            usual = STEPS * statistics.median(self._durations) if self._durations else 0.0
            self._limit = max(self._least, usual) if self._durations else self._first

    def allow_long(self) -> None:
        """Allow until the next event what the first one is allowed: for work whose pace is not known."""
        with self._guard:
            self._last, self._limit, self._stepped = time.monotonic(), self._first, False

    def rest(self) -> None:
        """Watch nothing until the next event or `allow_long`: for a wait that has a deadline of its own."""
        with self._guard:
            self._limit, self._stepped = None, False

    def close(self) -> None:
        """End the watch."""
        self._end.set()
        self._thread.join(10.0)

    def _work(self) -> None:
        while not self._end.wait(min(1.0, self._least / 10)):
            with self._guard:
                limit, silent, step = self._limit, time.monotonic() - self._last, self._step
            if limit is not None and silent > limit:
                self._bite(f"no event for {silent:.0f} s after step {step} (allowed: {limit:.0f} s)")
                return

    def _bite(self, sentence: str) -> None:
        try:
            with self._stacks.open("w", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            _log.warning("stacks not written: %s", error)
        teller = threading.Thread(target=self._tell, args=(sentence,), name="hrgrid-last-words", daemon=True)
        teller.start()
        teller.join(TELL_SECONDS)
        if not self._end.wait(self._grace):
            os._exit(HANG_EXIT)
