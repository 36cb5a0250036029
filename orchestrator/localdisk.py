"""Files below a folder: each written whole or not at all, on disk before anybody is told, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["LocalDisk", "Stored"]

LOCK_SECONDS: Final = 10.0
"""A lock is held for the time of two small writes; whoever has it longer is stopped or on a machine that hangs."""

_TEMPORARY: Final = ".tmp-"
_LOCK: Final = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A file's content, and what tells whether and when somebody wrote it."""

    content: bytes
    version: str
    """Another content has another version."""

    age: float
    """Seconds since it was written, all by the storage's own clock: clocks of other machines do not matter."""


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """The files below `root`, a folder of a disk or of a network file system. Every method may raise OSError."""

    root: Path

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or None when it is not there."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def stored(self, path: str) -> Stored | None:
        """Return a file's content with its version and its age by the clock that stamps files, or None."""
        target = self.root / path
        try:
            with target.open("rb") as stream:
                content, written = stream.read(), os.fstat(stream.fileno()).st_mtime
        except FileNotFoundError:
            return None
        return Stored(content=content, version=_version(content), age=max(0.0, _now(target.parent) - written))

    def write(self, path: str, content: bytes) -> None:
        """Write a file so that a reader sees the old content or the new."""
        with self._replacing(path) as temporary:
            _write_synced(temporary, content)

    def exists(self, path: str) -> bool:
        """Tell whether a file is there."""
        return (self.root / path).is_file()

    def names(self, path: str) -> set[str]:
        """Return the names directly below a folder."""
        try:
            return {name for name in os.listdir(self.root / path) if not _internal(name)}
        except FileNotFoundError:
            return set()

    def walk(self, path: str) -> Iterator[str]:
        """Yield the paths of all files below a folder, relative to it."""
        folder = self.root / path
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not _internal(file.name):
                yield file.relative_to(folder).as_posix()

    def delete(self, path: str) -> None:
        """Delete a file or a folder; nothing there is no error, nor that somebody else is deleting it, too."""
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target, onerror=_unless_gone)
        else:
            target.unlink(missing_ok=True)

    def put_file(self, file: Path, path: str) -> None:
        """Copy a local file to a path."""
        with self._replacing(path) as temporary, file.open("rb") as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
            sink.flush()
            os.fsync(sink.fileno())

    def get_file(self, path: str, file: Path) -> None:
        """Make a path's file appear as a local file, which is for reading."""
        # Checkpoints have hundreds of megabytes and nobody writes into one: a second name costs neither time nor disk.
        file.unlink(missing_ok=True)
        try:
            os.link(self.root / path, file)
        except OSError:
            shutil.copyfile(self.root / path, file)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file if none is there; False if one is."""
        # A hard link is made only if the name is free, and the name never shows a half-written file.
        target = self._ready(path)
        temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            _write_synced(temporary, content)
            os.link(temporary, target)
            _sync_folder(target.parent)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def replace(self, path: str, content: bytes, version: str) -> bool:
        """Write a file if its version is still this one; False if it is not."""
        target = self.root / path
        if not target.is_file():
            return False
        with _locked(target.parent):
            now = self.read(path)
            if now is None or _version(now) != version:
                return False
            self.write(path, content)
        return True

    def clock(self, path: str) -> float:
        """Return the time by the clock that stamps files in a folder, as seconds since the epoch."""
        return _now(self.root / path)

    def sweep(self, path: str, age: float) -> int:
        """Delete what writers that were killed left below a folder, if nothing was written to it for `age` seconds."""
        swept, now = 0, None
        for folder, _, names in os.walk(self.root / path):
            for name in names:
                if name.startswith(_TEMPORARY):
                    file = Path(folder, name)
                    now = _now(Path(folder)) if now is None else now
                    with contextlib.suppress(FileNotFoundError):
                        if now - file.stat().st_mtime > age:
                            file.unlink()
                            swept += 1
        return swept

    def _ready(self, path: str) -> Path:
        target = self.root / path
        if not target.parent.is_dir():
            there = target.parent
            while not there.is_dir() and there != there.parent:
                there = there.parent
            target.parent.mkdir(parents=True, exist_ok=True)
            for folder in target.parent.parents:  # a new folder is on disk when the one above it is
                _sync_folder(folder)
                if folder == there:
                    break
        return target

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        target = self._ready(path)
        temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            yield temporary
            os.replace(temporary, target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _unless_gone(_function: object, _path: object, problem: tuple[object, BaseException, object]) -> None:
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]


def _internal(name: str) -> bool:
    return name.startswith(_TEMPORARY) or name == _LOCK


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _now(folder: Path) -> float:
    """The time by the clock that stamps files in this folder: on a network file system that of its server."""
    marker = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        with marker.open("wb") as stream:
            stream.write(b"now")
            stream.flush()
            os.fsync(stream.fileno())
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; a killed process loses it at once."""
    deadline = time.monotonic() + LOCK_SECONDS
    with (folder / _LOCK).open("ab") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    reason = f"another process has held {folder / _LOCK} for {LOCK_SECONDS:.0f} s; is it stopped?"
                    raise OSError(errno.EDEADLK, reason) from error
                time.sleep(0.005)
        yield


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk: without it a power cut may undo a rename or a link that was made."""
    # Some network and FUSE file systems know no such thing, and folders above the storage may not be ours to open.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
