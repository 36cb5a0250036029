"""Folders of this machine that one process needs for a while; those of a process that is gone are swept.

A folder is locked by the process that made it for as long as it lives, so that no sweep ever takes a living one's,
whatever became of process numbers and in whichever container it runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

__all__ = ["Scratch", "scratch_path", "sweep_scratch"]

PREFIX: Final = "hrgrid-scratch-"
YOUNG_SECONDS: Final = 60.0
"""A folder younger than this is left alone: its process may be about to lock it."""

KEPT_SECONDS: Final[Mapping[str, float]] = {"log": 86400.0}
"""Kind of a folder to the time that it is left for a person: a log that did not reach the storage."""


class Scratch:
    """An empty folder below the machine's temporary folder, deleted by `close` or at the end of a `with`."""

    def __init__(self, kind: str, name: str | None = None) -> None:
        """`kind`: what it is for, a part of its name; `name`: the rest of it, where other processes must find it."""
        self.path: Final = _made(kind, name)
        self._lock = _locked(self.path)

    def close(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Keep the folder, for a person or a later sweep."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep_scratch(*, older_than: float = YOUNG_SECONDS) -> list[Path]:
    """Delete this user's folders whose process is gone; `older_than`: seconds since they were last written."""
    swept = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            found = folder.lstat()
        except OSError:
            continue
        kept = KEPT_SECONDS.get(folder.name.removeprefix(PREFIX).partition("-")[0], 0.0)
        if found.st_uid != os.getuid() or time.time() - found.st_mtime < max(older_than, kept):
            continue
        lock = _locked(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            swept.append(folder)
    return swept


def scratch_path(kind: str, name: str) -> Path:
    """Return where the folder `Scratch(kind, name)` of another process is."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{kind}-{name}"


def _made(kind: str, name: str | None) -> Path:
    if name is None:
        return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
    path = scratch_path(kind, name)
    path.mkdir(mode=0o700)
    return path


def _locked(folder: Path) -> int | None:
    """Return the descriptor that holds the lock of a folder, or None when another process has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
