"""Checkpoints on their way to storage: saved to a local folder at once, uploaded by a thread meanwhile."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import LeaseLostError, StorageError
from orchestrator.workload import Json

__all__ = ["Keeper"]

ATTEMPTS: Final = 4
FAILURES_IN_A_ROW: Final = 3
"""Checkpoints lost one after the other before the training is stopped: without storage it would run for nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parcel:
    folder: Path
    step: int
    metrics: Mapping[str, float]
    best: bool
    info: Mapping[str, Json]


class Keeper:
    """Takes checkpoints from the training thread and brings them to a `CheckpointStore`.

    While one is being uploaded, only the newest of those that wait (and the newest best one) is kept.
    """

    def __init__(self, store: CheckpointStore, info: Mapping[str, Json], *, pause: float = 2.0) -> None:
        """`info` goes into every manifest; `pause`: seconds before the second attempt, doubled for each further."""
        self._store = store
        self._info = dict(info)
        self._pause = pause
        # One place per trial and storage, so that what a killed worker left here does not stay for ever.
        place = hashlib.sha256(f"{store.storage.uri} {store.key}".encode()).hexdigest()[:16]
        self._root = Path(tempfile.gettempdir()) / f"hrgrid-checkpoints-{place}"
        shutil.rmtree(self._root, ignore_errors=True)
        self._waiting: list[_Parcel] = []
        self._lost: list[str] = []
        self._busy = False
        self._end = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="hrgrid-keeper", daemon=True)
        self._thread.start()

    def take(
        self,
        save: Callable[[Path], None],
        step: int,
        metrics: Mapping[str, float],
        *,
        best: bool,
        info: Mapping[str, Json] | None = None,
    ) -> None:
        """Save a state locally and queue its upload; raises StorageError when the last three uploads all failed.

        `info` goes into this checkpoint's manifest, beside what goes into every one.
        """
        self._raise_if_lost()
        folder = self._root / f"{step:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save(folder)
        parcel = _Parcel(
            folder=folder, step=step, metrics=dict(metrics), best=best, info={**self._info, **(info or {})}
        )
        with self._changed:
            dropped = [old for old in self._waiting if best or not old.best]
            self._waiting = [*(old for old in self._waiting if old not in dropped), parcel]
            self._changed.notify_all()
        for old in dropped:
            shutil.rmtree(old.folder, ignore_errors=True)

    def finish(self, timeout: float = 3600.0) -> None:
        """Wait until everything is uploaded; raises StorageError if the last checkpoint could not be."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)
        if self._lost or not done:
            raise StorageError(self._complaint() if self._lost else f"the upload did not end in {timeout:.0f} seconds")

    def close(self, timeout: float = 60.0) -> None:
        """Give uploads `timeout` seconds to end, then end the thread and delete the local folders."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)
            self._end = True
            self._waiting = []
            self._changed.notify_all()
        self._thread.join(30.0)
        shutil.rmtree(self._root, ignore_errors=True)

    def _raise_if_lost(self) -> None:
        if len(self._lost) >= FAILURES_IN_A_ROW:
            raise StorageError(self._complaint())

    def _complaint(self) -> str:
        count, reason = len(self._lost), self._lost[-1]
        return f"trial {self._store.key}: the last {count} checkpoints could not be stored ({reason})"

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._end)
                if self._end:
                    return
                parcel, self._busy = self._waiting.pop(0), True
            error = self._upload(parcel)
            with self._changed:
                self._lost = [*self._lost, error] if error else []
                self._busy = False
                self._changed.notify_all()
            shutil.rmtree(parcel.folder, ignore_errors=True)

    def _upload(self, parcel: _Parcel) -> str:
        """Return an empty string, or why the checkpoint could not be stored."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._store.save(parcel.folder, parcel.step, parcel.metrics, best=parcel.best, info=parcel.info)
                self._store.prune()
                return ""
            except LeaseLostError as error:
                return str(error)  # rank 0 ends the training; the trial's checkpoints are another launch's now
            except Exception as error:
                _log.warning("checkpoint %d: attempt %d of %d: %s", parcel.step, attempt, ATTEMPTS, error)
                reason = str(error) or type(error).__name__
                if self._end:
                    break
                if attempt < ATTEMPTS:
                    time.sleep(self._pause * 2 ** (attempt - 1))
        return reason
