"""Metrics to MLflow without making the training wait: a queue, a thread, batches, and a file while the server is away.

Timestamps are a function of the step (start of the run plus one millisecond per step), and a point at or below the
last step that the store holds for its name is not sent: a replayed spill file or the steps that a resumed run
executes again leave no duplicates in a chart.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.runstore import absolute_uri, legal_name, probe
from orchestrator.tracking import open_client

__all__ = ["Point", "Recorder", "spool_folder"]

BATCH: Final = 1000
"""Limit of MLflow's `log_batch` for metrics."""
REFUSALS: Final = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")
"""Error codes of MLflow that trying again does not mend."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since the epoch."""


def spool_folder() -> Path:
    """Where a host keeps what it could not deliver yet."""
    return Path(tempfile.gettempdir()) / "hrgrid-spool"


class Recorder:
    """Records metrics of one run from any thread; `record` never waits for the store and never raises for it."""

    def __init__(
        self,
        uri: str,
        run_id: str,
        start_ms: int,
        *,
        folder: Path | None = None,
        flush_seconds: float = 1.0,
        retry_seconds: float = 5.0,
    ) -> None:
        """`start_ms`: start of the run (`Tracker.start_ms`). `folder`: where points wait while the server is away;
        what an earlier attempt on this host left there for the same run is sent first."""
        self._uri = absolute_uri(uri)
        self._run_id = run_id
        self._start_ms = start_ms
        self._flush_seconds = flush_seconds
        self._retry_seconds = retry_seconds
        self._spill = (folder or spool_folder()) / f"spill-{run_id}.jsonl"
        self._spill.parent.mkdir(parents=True, exist_ok=True)
        self._client: Any = None
        self._last: dict[str, int] | None = None
        self._retry_at = 0.0
        self._busy = False
        self._closing = False
        self._deadline = float("inf")
        self._queue: list[Point] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="hrgrid-recorder", daemon=True)
        self._thread.start()

    @property
    def spill(self) -> Path:
        """The file that holds undelivered points; it does not exist while there are none."""
        return self._spill

    def record(self, metrics: Mapping[str, float], step: int, *, timestamp_ms: int | None = None) -> None:
        """Queue metrics of a step. `timestamp_ms` replaces the default, start of the run plus `step` milliseconds."""
        stamp = self._start_ms + step if timestamp_ms is None else timestamp_ms
        points = [
            Point(name=legal_name(name), value=float(value), step=step, timestamp=stamp)
            for name, value in metrics.items()
        ]
        with self._changed:
            self._queue += points
            self._changed.notify_all()

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything recorded so far is stored; False when it is not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """Deliver what is left and end the thread; False when points stay in the spill file for a later attempt."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + timeout
            self._changed.notify_all()
        self._thread.join(timeout + 5.0)
        return not self._thread.is_alive() and not self._queue and not self._spill.exists()

    def _is_idle(self) -> bool:
        return not self._queue and not self._busy and not self._spill.exists()

    def _work(self) -> None:
        while True:
            points, closing = self._take()
            try:
                self._deliver(points)
            except Exception:
                _log.exception("recorder of run %s", self._run_id)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            if not closing:
                continue
            if not self._spill.exists() or time.monotonic() >= self._deadline:
                return
            time.sleep(0.2)
            self._retry_at = 0.0

    def _take(self) -> tuple[list[Point], bool]:
        """Wait for points, for a retry or for the end; then take all points."""
        with self._changed:
            if not self._spill.exists():
                self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(lambda: self._closing or len(self._queue) >= BATCH, self._flush_seconds)
            points, self._queue = self._queue, []
            self._busy = bool(points)
            return points, self._closing

    def _deliver(self, points: Sequence[Point]) -> None:
        if self._last is None or self._spill.exists():
            self._append(points)
            if time.monotonic() >= self._retry_at:
                self._replay()
            return
        unsent = self._send(points)
        if unsent:
            self._append(unsent)

    def _replay(self) -> None:
        """Connect if need be, send the spill file and remove it; on failure keep what was not sent."""
        if self._last is None and not self._connect():
            return
        waiting = list(_read(self._spill))
        unsent = self._send(waiting)
        if len(unsent) == len(waiting) and unsent:
            return
        self._spill.unlink(missing_ok=True)
        self._append(unsent)
        if not unsent:
            self._retry_at = 0.0

    def _connect(self) -> bool:
        """Learn the last stored step of every name; False while the server is away."""
        try:
            probe(self._uri)
            self._client = self._client or open_client(self._uri)
            stored = self._client.get_run(self._run_id).data.to_proto().metrics
        except Exception as error:
            self._away(error)
            return False
        self._last = {metric.key: int(metric.step) for metric in stored}
        return True

    def _send(self, points: Sequence[Point]) -> list[Point]:
        """Send the points that the store does not hold yet; return those that could not be sent."""
        new = self._unstored(points)
        for begin in range(0, len(new), BATCH):
            batch = new[begin : begin + BATCH]
            try:
                self._log_batch(batch)
            except Exception as error:
                if getattr(error, "error_code", "") in REFUSALS:
                    _log.warning("run %s: the store refuses %d points: %s", self._run_id, len(batch), error)
                    continue
                self._away(error)
                return new[begin:]
            self._advance(batch)
        return []

    def _log_batch(self, batch: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        probe(self._uri)
        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in batch]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _unstored(self, points: Iterable[Point]) -> list[Point]:
        last = dict(self._last or {})
        new = []
        for point in points:
            if point.step > last.get(point.name, -1):
                last[point.name] = point.step
                new.append(point)
        return new

    def _advance(self, batch: Iterable[Point]) -> None:
        if self._last is not None:
            self._last.update({point.name: point.step for point in batch})

    def _away(self, error: Exception) -> None:
        if not self._retry_at:
            _log.warning("run %s: metrics wait in %s: %s", self._run_id, self._spill, error)
        self._retry_at = time.monotonic() + self._retry_seconds

    def _append(self, points: Sequence[Point]) -> None:
        if points:
            with self._spill.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(point)) + "\n" for point in points)


def _read(file: Path) -> Iterable[Point]:
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield Point(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            _log.warning("%s: a damaged line is left out", file)
