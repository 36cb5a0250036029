"""Checkpoints on their way to storage: saved to a local folder at once, uploaded by a thread meanwhile.

A training goes on while the storage is away or a disk is full. Nothing is given up before the storage has taken no
checkpoint for the whole of `patience`; then the training ends, since without storage it would run for nothing.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.checkpoints import CheckpointStore, is_full, megabytes
from orchestrator.errors import LeaseLostError, StorageError
from orchestrator.patience import LONGEST_PAUSE, PATIENCE, duration
from orchestrator.scratch import Scratch
from orchestrator.workload import Json

__all__ = ["Keeper"]

ATTEMPT_SECONDS: Final = 120.0
"""What an upload gets, beside a second for every 1e6 bytes, before it counts as hanging."""

HANGING: Final = 2
"""Uploads that hang and cannot be ended; with so many no further one is begun."""

ALMOST_NOTHING: Final = 1 << 20
"""Bytes: a disk with less is full, whatever error the writer of a state makes of it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parcel:
    folder: Path
    size: int
    step: int
    metrics: Mapping[str, float]
    best: bool
    info: Mapping[str, Json]


@dataclass(slots=True)
class _Attempt:
    """One upload in a thread of its own: no thread can be killed, but it can be left alone."""

    thread: threading.Thread
    saved: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)
    reason: str = ""
    lost: LeaseLostError | None = None


class Keeper:
    """Takes checkpoints from the training thread and brings them to a `CheckpointStore`.

    While one is being uploaded, only the newest of those that wait (and the newest best one) is kept.
    """

    def __init__(
        self,
        store: CheckpointStore,
        info: Mapping[str, Json],
        *,
        patience: float = PATIENCE,
        keep_last: int = 2,
        attempt: float = ATTEMPT_SECONDS,
        pause: float = 2.0,
    ) -> None:
        """`info` goes into every manifest.

        `patience`: seconds without a stored checkpoint that end the training; `keep_last`: checkpoints that stay
        beside the best; `attempt`: seconds for one upload, beside one for each 1e6 bytes; `pause`: seconds before the
        second attempt, doubled for each further one up to half a minute.
        """
        self._store = store
        self._info = dict(info)
        self._patience, self._keep_last, self._attempt_seconds, self._pause = patience, keep_last, attempt, pause
        self._scratch = Scratch("checkpoints")
        self._count = 0
        self._size = 0
        self._skipped: tuple[float, str] | None = None
        """Since when, on the monotonic clock, and why states cannot be saved on this machine."""
        self._away: tuple[float, str] | None = None
        """Since when and why the storage takes no checkpoint."""
        self._lost: LeaseLostError | None = None
        self._waiting: list[_Parcel] = []
        self._hanging: list[_Attempt] = []
        self._busy = False
        self._end = threading.Event()
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
        """Save a state locally and queue its upload; raises StorageError as `check` does.

        `info` goes into this checkpoint's manifest, beside what goes into every one. On a full disk the state is left
        out with a warning; raises StorageError when that has been so for the whole of `patience`.
        """
        self.check()
        self._count += 1
        folder = self._scratch.path / f"{self._count:06d}-{step:08d}"
        if not self._saved(save, folder, step):
            return
        size = self._size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        parcel = _Parcel(
            folder=folder, size=size, step=step, metrics=dict(metrics), best=best, info={**self._info, **(info or {})}
        )
        with self._changed:
            self._waiting.append(parcel)
            self._drop_old()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise StorageError if the storage has taken no checkpoint for longer than `patience`.

        Raises LeaseLostError if the trial's checkpoints are another launch's now.
        """
        with self._changed:
            if self._lost is not None:
                raise self._lost
            if self._is_too_late():
                raise StorageError(self._complaint())

    def finish(self, timeout: float | None = None) -> None:
        """Wait until everything is uploaded; raises StorageError if the last checkpoint could not be in time.

        `timeout`: seconds that whoever waits has; None: as long as the storage is given up only after its patience.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._skipped is not None:
            raise StorageError(f"trial {self._store.key}: the last state could not be saved: {self._skipped[1]}")
        while True:
            self.check()
            with self._changed:
                if not self._waiting and not self._busy:
                    return
                self._changed.wait(1.0)
            if deadline is not None and time.monotonic() > deadline:
                raise StorageError(f"trial {self._store.key}: the upload did not end in {timeout:.0f} seconds")

    def close(self, timeout: float = 60.0) -> None:
        """Give uploads `timeout` seconds to end, then end the thread and delete the local folders."""
        with self._changed:
            hopeless = self._lost is not None or self._is_too_late()
            self._changed.wait_for(lambda: not self._waiting and not self._busy, 0 if hopeless else timeout)
            self._end.set()
            self._waiting = []
            self._changed.notify_all()
        self._thread.join(30.0)
        self._scratch.close()

    def _saved(self, save: Callable[[Path], None], folder: Path, step: int) -> bool:
        """Save a state into a local folder; False if the disk is full."""
        try:
            folder.mkdir(parents=True)
            if shutil.disk_usage(folder).free < self._size:
                raise OSError(errno.ENOSPC, "the last state was larger than what is free")
            save(folder)
        except Exception as error:
            free = shutil.disk_usage(self._scratch.path).free
            shutil.rmtree(folder, ignore_errors=True)
            if not is_full(error) and free > max(self._size, ALMOST_NOTHING):
                raise
            self._skip(step, free)
            return False
        if self._skipped is not None:
            _log.info("states are saved again after %s", duration(time.monotonic() - self._skipped[0]))
        self._skipped = None
        return True

    def _skip(self, step: int, free: int) -> None:
        needed = f"needs {megabytes(self._size)}, " if self._size else ""
        reason = f"the disk of {self._scratch.path.parent} is full: a state {needed}{megabytes(free)} are free"
        now = time.monotonic()
        began = now if self._skipped is None else self._skipped[0]
        self._skipped = (began, reason)
        key = self._store.key
        if now - began > self._patience:
            raise StorageError(f"trial {key}: no state could be saved for {duration(now - began)}: {reason}")
        _log.warning("checkpoint %d of trial %s is left out: %s; the training goes on", step, key, reason)

    def _is_too_late(self) -> bool:
        return self._away is not None and time.monotonic() - self._away[0] > self._patience

    def _complaint(self) -> str:
        assert self._away is not None
        away, reason = duration(time.monotonic() - self._away[0]), self._away[1]
        return f"trial {self._store.key}: no checkpoint could be stored for {away}: {reason}"

    def _drop_old(self) -> None:
        """Of those that wait keep the newest, and the newest best one."""
        best = next((parcel for parcel in reversed(self._waiting) if parcel.best), None)
        for parcel in self._waiting[:-1]:
            if parcel is not best:
                shutil.rmtree(parcel.folder, ignore_errors=True)
        self._waiting = [parcel for parcel in self._waiting if parcel is best or parcel is self._waiting[-1]]

    def _work(self) -> None:
        pause = self._pause
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._end.is_set())
                if self._end.is_set():
                    return
                parcel, self._busy = self._waiting.pop(0), True
            began = time.monotonic()
            reason = self._upload(parcel)
            with self._changed:
                self._busy = False
                self._note(parcel, reason, began)
                if reason and not self._end.is_set() and self._lost is None:
                    self._waiting.insert(0, parcel)
                    self._drop_old()
                else:
                    shutil.rmtree(parcel.folder, ignore_errors=True)
                self._changed.notify_all()
            if reason:
                self._end.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE) if reason else self._pause

    def _note(self, parcel: _Parcel, reason: str, began: float) -> None:
        """Tell of an outage once when it begins and once when it has ended."""
        key = self._store.key
        if self._lost is not None:
            self._waiting = []
            return
        if not reason:
            if self._away is not None:
                away = duration(time.monotonic() - self._away[0])
                _log.info("checkpoint %d of trial %s is stored, after %s without storage", parcel.step, key, away)
            self._away = None
            return
        if self._away is None:
            _log.warning(
                "checkpoint %d of trial %s could not be stored: %s; the training goes on, and ends if no checkpoint "
                "can be stored for %s", parcel.step, key, reason, duration(self._patience),
            )  # fmt: skip
        self._away = (began if self._away is None else self._away[0], reason)

    def _upload(self, parcel: _Parcel) -> str:
        """Try once; return an empty string, or why the checkpoint could not be stored."""
        self._hanging = [attempt for attempt in self._hanging if attempt.thread.is_alive()]
        if len(self._hanging) >= HANGING:
            return self._hanging[-1].reason
        attempt = _Attempt(
            threading.Thread(name="hrgrid-upload", daemon=True, target=lambda: self._store_it(attempt, parcel))
        )
        limit = self._attempt_seconds + parcel.size / 1e6
        try:
            attempt.thread.start()
        except RuntimeError as error:  # no memory for a thread now
            return str(error)
        began = time.monotonic()
        while attempt.thread.is_alive():
            attempt.thread.join(0.05)
            if time.monotonic() - began > limit or self._end.is_set():
                if attempt.saved.is_set():
                    return ""
                attempt.given_up.set()
                attempt.reason = f"the storage {self._store.storage.uri} did not answer for {duration(limit)}"
                self._hanging.append(attempt)
                return attempt.reason
        self._lost = attempt.lost
        return attempt.reason

    def _store_it(self, attempt: _Attempt, parcel: _Parcel) -> None:
        def wanted() -> bool:
            return not attempt.given_up.is_set()

        try:
            self._store.save(
                parcel.folder, parcel.step, parcel.metrics, best=parcel.best, info=parcel.info, wanted=wanted
            )
        except LeaseLostError as error:
            attempt.lost, attempt.reason = error, str(error)
            return
        except Exception as error:
            _log.debug("checkpoint %d not stored", parcel.step, exc_info=True)
            attempt.reason = attempt.reason or str(error) or type(error).__name__
            return
        attempt.saved.set()
        try:
            self._store.prune(self._keep_last)
        except Exception as error:
            _log.info("old checkpoints of trial %s are not deleted: %s", self._store.key, error)
