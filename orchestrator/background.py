"""Work that must not make a training wait: done one after the other in a thread, with retries, never raising there."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Courier"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    what: str
    do: Callable[[], object]
    otherwise: Callable[[], object] | None


class Courier:
    """Runs jobs in order in one thread; a job that fails is tried again, then left to what it names otherwise.

    After such a job the next ones that name something are tried once each, until one succeeds: a server that is
    away is waited for once.
    """

    def __init__(self, name: str, *, attempts: int = 3, pause: float = 2.0) -> None:
        """`pause`: seconds before the second attempt; each further one waits twice as long."""
        self._attempts = attempts
        self._pause = pause
        self._failing = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"hrgrid-{name}", daemon=True)
        self._thread.start()

    def send(self, what: str, job: Callable[[], object], otherwise: Callable[[], object] | None = None) -> None:
        """Queue a job; `what` names it in a warning, `otherwise` is done when it has failed for good."""
        self._jobs.put(_Job(what=what, do=job, otherwise=otherwise))

    def close(self, timeout: float = 120.0) -> bool:
        """Finish all jobs; those that are not begun after `timeout` seconds are left to what they name otherwise.

        Returns False when even that was not done after 30 seconds more.
        """
        self._jobs.put(None)
        self._thread.join(timeout)
        self._end.set()
        self._thread.join(30.0)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._end.is_set() and self._done(job):
                self._failing = False
                continue
            self._failing = True
            if job.otherwise is not None:
                try:
                    job.otherwise()
                except Exception as error:
                    _log.warning("%s: lost: %s", job.what, error)

    def _done(self, job: _Job) -> bool:
        """Try a job; False when it has failed for good."""
        attempts = 1 if self._failing and job.otherwise is not None else self._attempts
        for attempt in range(1, attempts + 1):
            try:
                job.do()
                return True
            except Exception as error:
                level = logging.DEBUG if self._failing else logging.WARNING
                _log.log(level, "%s: attempt %d of %d: %s", job.what, attempt, attempts, error)
                if attempt < attempts and self._end.wait(self._pause * 2 ** (attempt - 1)):
                    break
        return False
