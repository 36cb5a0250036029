"""Work that must not make a training wait: done one after the other in a thread, with retries, never raising there."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

__all__ = ["Courier"]

_log = logging.getLogger(__name__)


class Courier:
    """Runs jobs in order in one thread; a job that fails is tried again, then left out with a warning."""

    def __init__(self, name: str, *, attempts: int = 3, pause: float = 2.0) -> None:
        """`pause`: seconds before the second attempt; each further one waits twice as long."""
        self._attempts = attempts
        self._pause = pause
        self._jobs: queue.SimpleQueue[tuple[str, Callable[[], object]] | None] = queue.SimpleQueue()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"hrgrid-{name}", daemon=True)
        self._thread.start()

    def send(self, what: str, job: Callable[[], object]) -> None:
        """Queue a job; `what` names it in a warning."""
        self._jobs.put((what, job))

    def close(self, timeout: float = 120.0) -> bool:
        """Finish all jobs; False when they are not done after `timeout` seconds."""
        self._jobs.put(None)
        self._thread.join(timeout)
        self._end.set()
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            self._attempt(*entry)

    def _attempt(self, what: str, job: Callable[[], object]) -> None:
        for attempt in range(1, self._attempts + 1):
            try:
                job()
                return
            except Exception as error:
                last = attempt == self._attempts or self._end.is_set()
                _log.warning("%s: attempt %d of %d: %s", what, attempt, self._attempts, error)
                if last:
                    return
                time.sleep(self._pause * 2 ** (attempt - 1))
