"""What rank 0 of a gang tells of a trial while it runs: the progress document, which also says that the trial lives.

The same thread sees what others tell the gang by the storage: a stop that is asked for, the loss of its lease.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from orchestrator.errors import LeaseLostError
from orchestrator.ledger import Ledger
from orchestrator.patience import patiently
from orchestrator.telemetry import Gpus, device
from orchestrator.workload import Json

if TYPE_CHECKING:
    from orchestrator.worker import Assignment

__all__ = ["ProgressWriter"]

REMOTE_SECONDS: Final = 5.0
"""Seconds between two progress documents in a remote storage."""
LOCAL_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class ProgressWriter:
    """Rank 0's thread; `beat` is called after every document that it could write."""

    def __init__(self, ledger: Ledger, job: Assignment, beat: Callable[[], None]) -> None:
        self._ledger, self._job, self._beat = ledger, job, beat
        self._before = self._last_attempt()
        self._document: dict[str, Json] = {
            "state": "running", "phase": "training", "step": 0, "total": 0, "metrics": {}, "cell": job.spec.cell.name,
            "run_id": job.run_id, "workers": job.workers, "host": socket.gethostname(), "pid": os.getpid(),
            "owner": job.owner, "lease": job.lease, "started": time.time(), "device": device(Gpus()),
            "share": job.share,
            "attempt": 1 + int(self._before.get("attempt", 0)),
            "lost_seconds": float(self._before.get("lost_seconds", 0.0)),
        }  # fmt: skip
        self.stop_asked = False
        self.regroup_asked = False
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._lost: LeaseLostError | None = None
        self._interval = LOCAL_SECONDS if ledger.storage.is_local else REMOTE_SECONDS
        self._thread = threading.Thread(target=self._work, name="hrgrid-progress", daemon=True)
        self._thread.start()

    def update(self, *, metrics: Mapping[str, float] | None = None, **fields: Json) -> None:
        """Put fields into the document; `metrics` are added to those that it has."""
        with self._guard:
            self._document |= fields
            if metrics:
                self._document["metrics"] = {**self._document["metrics"], **metrics}

    def resumed(self, step: int, saved: float) -> None:
        """Tell the step that this attempt goes on from, and when (epoch seconds) it was saved; 0: from the beginning.

        What the attempt before did after that, and the time until now, is lost.
        """
        lost, since = 0.0, max(saved, float(self._before.get("started", 0.0)))
        if since and self._document["attempt"] > 1:
            lost = max(0.0, time.time() - since)
        self.update(resumed_from=step, lost_seconds=round(self._document["lost_seconds"] + lost, 3))

    def gpu_load(self, percent: float | None) -> None:
        """Keep the highest load that was sampled in training: it tells whether another trial may share the GPU."""
        with self._guard:
            if percent is not None and self._document["phase"] == "training":
                self._document["gpu_percent"] = max(percent, self._document.get("gpu_percent", 0.0))

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        with self._guard:
            return dict(self._document["metrics"])

    def close(self) -> None:
        """Write the document once more and end the thread."""
        self._end.set()
        self._thread.join(30.0)
        self._write()

    def require_lease(self) -> None:
        """Raise LeaseLostError once another launch, or a later attempt of this one, has taken the trial over."""
        if self._lost is not None:
            raise self._lost

    def _last_attempt(self) -> Mapping[str, Json]:
        """What the last attempt under the lease wrote; empty for the first."""
        what, key = f"worker 0 of trial {self._job.key}", self._job.key
        last = patiently(what, lambda: self._ledger.progress(key), say=_log.warning) or {}
        return last if last.get("lease") == self._job.lease else {}

    def _work(self) -> None:
        self._write()
        while not self._end.wait(self._interval):
            try:
                self._look()
                self._write()
                if self._lost is None:
                    self._beat()
            except Exception as error:  # whatever it is, the next turn may do better; without signs of life all ends
                _log.warning("progress: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        """See whether a stop is asked for, and whether a later attempt runs: this machine may have been cut off."""
        key, lease = self._job.key, self._job.lease
        self.stop_asked = self.stop_asked or self._ledger.stop_asked(key, lease)
        if self._job.may_grow:
            self.regroup_asked = self._ledger.regroup_asked(key, lease, self._document["attempt"])
        newest = self._ledger.progress(key) or {}
        if newest.get("lease") == lease and int(newest.get("attempt", 0)) > self._document["attempt"]:
            self._lost = LeaseLostError(f"a later attempt trains trial {key}; this one stops and writes nothing more")

    def _write(self) -> None:
        if self._lost is not None:
            return
        with self._guard:
            document = {**self._document, "memory_gb": _peak_memory_gb()}
        try:
            self._ledger.write_progress(self._job.key, document, lease=self._job.lease)
        except LeaseLostError as error:
            self._lost = error
        except Exception as error:
            _log.warning("progress not written: %s", error)


def _peak_memory_gb() -> float:
    """The most main memory that this process has used, in units of 1e9 bytes (Linux gives kibibytes)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)
