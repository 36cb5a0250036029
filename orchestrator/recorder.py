"""Metrics to MLflow without making the training wait: a queue, a thread, batches, and a file while the server is away.

Timestamps are a function of the step (start of the run plus one millisecond per step), and of every name a step is
stored once: a point whose step the store has already is not sent, be it from a replayed file, from the steps that a
resumed run executes again, or older than what a later attempt has sent meanwhile.

What waits is bounded: SPILL_POINTS and SPILL_BYTES. Beyond, the older points of training curves and of the machine's
load are thinned, which is told once; validations and scores are kept whatever comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import reason_of
from orchestrator.points import Point, SpillFile, spool_folder, take_over, thinned
from orchestrator.runstore import absolute_uri, legal_name, probe
from orchestrator.tracking import denial, open_client, refused
from orchestrator.undelivered import Undelivered
from orchestrator.workload import Json

__all__ = ["Recorder"]

BATCH: Final = 1000
"""Limit of MLflow's `log_batch` for metrics."""
SPILL_POINTS: Final = 100_000
"""Most points that wait for the store: all curves of a published schedule (160,000 iterations, ten metrics every 50 of
them, and the machine's load every minute) are below it."""
SPILL_BYTES: Final = 16 * 2**20
"""Largest file of waiting points."""
UNSENT_POINTS: Final = 20_000
"""Most points that a checkpoint carries (about a megabyte)."""

_log = logging.getLogger(__name__)


class Recorder:
    """Records metrics of one run from any thread; `record` never waits for the store and never raises for it."""

    def __init__(
        self,
        uri: str,
        run_id: str,
        start_ms: int,
        *,
        folder: Path | None = None,
        undelivered: Undelivered | None = None,
        adopt: bool = True,
        flush_seconds: float = 1.0,
        retry_seconds: float = 5.0,
    ) -> None:
        """`start_ms`: start of the run (`Tracker.start_ms`). `folder`: where points wait while the server is away.
        `undelivered`: where those go that still wait at the end; without it they stay in `folder`. What processes that
        are gone left on this host is sent first, and with `adopt` what earlier attempts left in `undelivered`."""
        self._uri = absolute_uri(uri)
        self._run_id = run_id
        self._start_ms = start_ms
        self._flush_seconds = flush_seconds
        self._retry_seconds = retry_seconds
        self._folder = folder or spool_folder()
        self._undelivered = undelivered
        self._adopt = adopt
        self._adopted: list[str] = []
        self._spill = SpillFile(self._folder, run_id)
        self._client: Any = None
        self._stored: _Stored | None = None
        self._retry_at = 0.0
        self._told_thinning = False
        self._closing = False
        self._deadline = float("inf")
        self._queue: list[Point] = []
        self._waiting: list[Point] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="hrgrid-recorder", daemon=True)
        self._thread.start()

    @property
    def spill(self) -> Path:
        """The file that holds undelivered points; it does not exist while there are none."""
        return self._spill.path

    def record(self, metrics: Mapping[str, float], step: int, *, timestamp_ms: int | None = None) -> None:
        """Queue metrics of a step. `timestamp_ms` replaces the default, start of the run plus `step` milliseconds."""
        stamp = self._start_ms + step if timestamp_ms is None else timestamp_ms
        self._put(
            Point(name=legal_name(name), value=float(value), step=step, timestamp=stamp)
            for name, value in metrics.items()
        )

    def unsent(self) -> list[Json]:
        """Return what the store does not surely hold yet as rows for `restore`; at most about 20,000 of them."""
        with self._changed:
            points = [*self._waiting, *self._queue]
        return [point.row() for point in thinned(points, UNSENT_POINTS)]

    def restore(self, rows: Iterable[Sequence[Json]]) -> None:
        """Record what `unsent` returned when the checkpoint was taken that the training goes on from."""
        self._put(Point.of(row) for row in rows)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything recorded so far is stored; False when it is not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._waiting, timeout)

    def close(self, timeout: float = 15.0) -> bool:
        """Deliver what is left and end the thread; False when points were left in `undelivered`, or on this host."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + timeout
            self._changed.notify_all()
        self._thread.join(timeout + 5.0)
        with self._changed:
            left = [*self._waiting, *self._queue]
        if left:
            self._hand_over(left)
        return not left

    def _put(self, points: Iterable[Point]) -> None:
        new = list(points)
        with self._changed:
            self._queue += new
            self._changed.notify_all()

    def _work(self) -> None:
        self._take_over()
        while True:
            new, closing = self._take()
            try:
                self._deliver(new)
            except Exception:
                _log.exception("recorder of run %s", self._run_id)
                self._retry_at = time.monotonic() + self._retry_seconds
            if not closing:
                continue
            with self._changed:
                done = not self._waiting and not self._queue
            if done or time.monotonic() >= self._deadline:
                return
            time.sleep(0.2)
            self._retry_at = 0.0

    def _take_over(self) -> None:
        """Take what others left: files of this host first, then what was kept in storage."""
        for points in take_over(self._folder, self._run_id):
            self._spill.append(points)
            with self._changed:
                self._waiting += points
        if self._undelivered is not None and self._adopt:
            try:
                kept = self._undelivered.points()
            except Exception as error:
                _log.warning("run %s: undelivered points not read: %s", self._run_id, error)
                return
            with self._changed:
                self._adopted = list(kept)
                self._waiting += [point for points in kept.values() for point in points]

    def _take(self) -> tuple[list[Point], bool]:
        """Wait for points, for a retry or for the end; then take all points."""
        with self._changed:
            if not self._waiting:
                self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(lambda: self._closing or len(self._queue) >= BATCH, self._flush_seconds)
            new, self._queue = self._queue, []
            self._waiting += new
            return new, self._closing

    def _deliver(self, new: Sequence[Point]) -> None:
        """Send what waits; what cannot be sent goes to the spill file, too."""
        if time.monotonic() < self._retry_at:
            self._spill.append(new)
            self._bound()
            return
        waiting = self._waiting  # only this thread changes it
        unsent = self._send(waiting)
        with self._changed:
            self._waiting = unsent
            self._changed.notify_all()
        if not unsent:
            self._retry_at = 0.0
            self._spill.replace([])
            self._forget_adopted()
        elif len(unsent) < len(waiting) or self._spill.size == 0:
            self._spill.replace(unsent)
        else:
            self._spill.append(new)
        self._bound()

    def _bound(self) -> None:
        many, size = len(self._waiting), self._spill.size
        if many <= SPILL_POINTS and size <= SPILL_BYTES:
            return
        kept = thinned(self._waiting, min(SPILL_POINTS, many) * 3 // 4)
        if not self._told_thinning:
            _log.warning(
                "run %s: %d points (%.0f MB) wait for the tracking store; older ones of training curves are thinned",
                self._run_id, many, size / 1e6,
            )  # fmt: skip
        self._told_thinning = True
        with self._changed:
            self._waiting = kept
        self._spill.replace(kept)

    def _send(self, points: Sequence[Point]) -> list[Point]:
        """Send the points that the store does not hold yet; return those that could not be sent."""
        if not points:
            return []
        begin = 0
        try:
            stored = self._connected()
            for begin in range(0, len(points), BATCH):
                new = stored.missing(points[begin : begin + BATCH])
                if new:
                    self._log_batch(new)
                    stored.add(new)
        except Exception as error:
            self._stored = None  # the store may have taken a batch whose answer was lost
            if not self._retry_at:
                reason = denial(self._uri, error) or reason_of(error)
                _log.warning("run %s: metrics wait in %s: %s", self._run_id, self._spill.path, reason)
            self._retry_at = time.monotonic() + self._retry_seconds
            return list(points[begin:])
        return []

    def _connected(self) -> _Stored:
        """Return what the store holds; raises whatever keeps it from answering."""
        if self._stored is None:
            probe(self._uri)
            self._client = self._client or open_client(self._uri)
            try:
                known = self._client.get_run(self._run_id).data.to_proto().metrics
            except Exception as error:
                if not refused(error):
                    raise
                known = ()  # no such run: every batch will be refused, which is told
            self._stored = _Stored(self._history, {metric.key: int(metric.step) for metric in known})
        return self._stored

    def _history(self, name: str) -> set[int]:
        try:
            return {int(point.step) for point in self._client.get_metric_history(self._run_id, name)}
        except Exception as error:
            if not refused(error):
                raise
            return set()

    def _log_batch(self, batch: Sequence[Point]) -> None:
        """Store points; those that the store refuses are left out with a warning, the others of the batch are not."""
        from mlflow.entities import Metric

        probe(self._uri)
        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in batch]
        try:
            self._client.log_batch(self._run_id, metrics=metrics)
        except Exception as error:
            if not refused(error):
                raise
            if len(batch) == 1 or self._is_gone():
                _log.warning("run %s: the store refuses %d points: %s", self._run_id, len(batch), reason_of(error))
                return
            half = len(batch) // 2
            self._log_batch(batch[:half])
            self._log_batch(batch[half:])

    def _is_gone(self) -> bool:
        """Tell whether the run was deleted, so that no point of it will ever be taken."""
        try:
            return bool(self._client.get_run(self._run_id).info.lifecycle_stage != "active")
        except Exception as error:
            if not refused(error):
                raise
            return True

    def _forget_adopted(self) -> None:
        if self._adopted and self._undelivered is not None:
            try:
                self._undelivered.drop_points(self._adopted)
                self._adopted = []
            except Exception as error:
                _log.warning("run %s: delivered points stay in storage: %s", self._run_id, error)

    def _hand_over(self, left: Sequence[Point]) -> None:
        """Bring what was not delivered where any host finds it; without such a place it stays on this one."""
        kept = False
        if self._undelivered is not None:
            try:
                self._undelivered.put_points(left)
                self._forget_adopted()
                kept = True
            except Exception as error:
                _log.warning("run %s: %d points stay in %s: %s", self._run_id, len(left), self.spill, reason_of(error))
        if not self._thread.is_alive():  # else it still writes there, and what it leaves is known by its steps
            self._spill.replace([] if kept else left)
            self._spill.release()


class _Stored:
    """Which steps of which name the store holds: the last one of each, and all of them where that does not tell."""

    def __init__(self, history: Callable[[str], set[int]], last: Mapping[str, int]) -> None:
        self._history = history
        self._last = dict(last)
        self._all: dict[str, set[int]] = {}

    def missing(self, points: Iterable[Point]) -> list[Point]:
        """Return the points that the store does not hold, each name and step once."""
        new: dict[tuple[str, int], Point] = {}
        for point in points:
            if (point.name, point.step) not in new and not self._holds(point):
                new[point.name, point.step] = point
        return list(new.values())

    def add(self, points: Iterable[Point]) -> None:
        """Note that points are stored now."""
        for point in points:
            self._last[point.name] = max(point.step, self._last.get(point.name, point.step))
            if point.name in self._all:
                self._all[point.name].add(point.step)

    def _holds(self, point: Point) -> bool:
        if point.name in self._last and point.step <= self._last[point.name]:
            if point.name not in self._all:
                self._all[point.name] = self._history(point.name)
            return point.step in self._all[point.name]
        return False
