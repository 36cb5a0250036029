"""This machine's copies of remote data sets: brought once, verified, bounded, shared by whoever reads them.

    $HRGRID_CACHE/data/.lock                  held while room is made
    $HRGRID_CACHE/data/<data set>/.used       held, shared, by each process that reads the data set; its time: last use
        <hash>-<file>                         a copy, there only when it is whole
        <hash>-<file>.<bytes>.part            as much of it as was brought; held by the process that downloads it
        <name>-<boot>.scratch                 what can be made again; held, shared, by each process that uses it

The locks are those of the kernel (flock), so a killed process holds none: the next one goes on with what it left. When
the copies would take more than `$HRGRID_CACHE_GB`, the data sets that were not read for the longest time go, but never
one that a living process reads. Processes of several users share a cache if its folder lets them write to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hrnet.data.location import cache_folder, download, join, sha256_file
from hrnet.data.stamps import hash_of, remember
from hrnet.errors import DataAwayError, DataError

__all__ = ["BOUND", "Copies", "RemoteFile", "gigabytes", "shown"]

BOUND: Final = "HRGRID_CACHE_GB"
"""Environment variable: what all copies together may take, in 1e9 bytes."""

_SHARE: Final = 0.8
"""Of the disk that is free or taken by copies, what they may take where nobody says."""

_AT_ONCE: Final = 4
"""Files downloaded at a time: one connection to S3 gives less than most machines can take."""

_TELL_SECONDS: Final = 10.0

_USED, _LOCK, _PART, _SCRATCH = ".used", ".lock", ".part", ".scratch"
_log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called with (files here, files in all, what was brought last)."""

Layout = Callable[[], tuple[bytes, int]]
"""Returns what a file begins with, and its size in bytes; what follows the begin is a hole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file of a remote data set, as its manifest describes it."""

    name: str
    """Name below the data set's location."""

    bytes: int
    """Its size."""

    sha256: str
    """Hex digest of its content."""


class Copies:
    """The local copies of one remote data set, which nobody removes while this object lives."""

    def __init__(self, uri: str, fingerprint: str) -> None:
        self.uri = uri
        self.folder = cache_folder() / "data" / fingerprint[:16]
        with self._explained():
            self._hold()

    def get(self, file: RemoteFile, *, anew: bool = False) -> Path:
        """Return a verified copy of a file, downloaded if it is not here or not what it should be.

        A copy that did not change since it was verified is not read again, unless `anew`. One process downloads, the
        others wait for it. Raises DataError if the file is not what the manifest says or there is no room for it,
        DataAwayError if it cannot be had now.
        """
        with self._explained():
            return self._get(file, anew, lambda _: None)

    def get_all(self, files: Sequence[RemoteFile], *, anew: bool = False, progress: Progress | None = None) -> None:
        """Do so for several, a few at a time; without `progress` the log says every ten seconds how far it is."""
        told = _Told(self.uri, self.folder, files, progress)

        def bring(file: RemoteFile) -> None:
            with self._explained():
                self._get(file, anew, told.block)
            told.file(file)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            futures = [pool.submit(bring, file) for file in files]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                told.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def scratch(self, name: str, boot: str, layout: Layout, *, limit: float, share: float) -> int:
        """Open a file for what can be made again, and return its descriptor; `layout` gives its begin and its size.

        Whoever asks for the name in this `boot` of the machine gets the same file, and nobody removes it while it is
        open; those of other boots go. It takes only room that nobody asked for: no data set is removed for it, all
        such files together promise at most `limit` bytes, and with the copies at most this `share` of what the cache
        may hold. Raises DataError if it has no room or the cache cannot be used.
        """
        path = self.folder / f"{name}-{boot}{_SCRATCH}"
        with self._explained(), _held(self.folder.parent / _LOCK):
            if not path.exists():
                begin, size = layout()
                _discard_scratch(self.folder.parent, boot)
                self._check_spare(size, limit, share)
                part = path.with_name(f"{path.name}.{size}{_PART}")
                part.write_bytes(begin)
                os.truncate(part, size)
                part.replace(path)
            number = _open(path)
            fcntl.flock(number, fcntl.LOCK_SH)
        return number

    def _check_spare(self, needed: int, limit: float, share: float) -> None:
        """Raise DataError unless a scratch file of so many bytes finds room."""
        root = self.folder.parent
        written, promised = (sum(column) for column in zip(*map(_sizes, _folders(root)), strict=True))
        disk = written + shutil.disk_usage(root).free
        scratch = sum(file.stat().st_size for file in root.glob(f"*/*{_SCRATCH}"))
        room = min(limit - scratch, share * min(_bound(disk), disk) - promised)
        if needed > room:
            raise DataError(f"{shown(needed)} are more than the {shown(max(0, room))} that the cache {root} can spare")

    def _get(self, file: RemoteFile, anew: bool, told: Callable[[int], None]) -> Path:
        path = self.folder / f"{file.sha256[:16]}-{file.name}"
        if _is_good(path, file, anew=anew):
            return path
        with _locked(path.with_name(f"{path.name}.{file.bytes}{_PART}")) as part:
            # Whoever held the lock before has most likely brought it.
            if not _is_good(path, file):
                if path.exists():
                    _log.warning("%s is not what it was, so it is downloaded again", path)
                self._bring(file, part, path, told)
            elif part.stat().st_size == 0:
                part.unlink()
        return path

    def _bring(self, file: RemoteFile, part: Path, path: Path, told: Callable[[int], None]) -> None:
        begun = part.stat().st_size
        self._make_room(file.bytes - begun, part)
        download(self.uri, file.name, part, file.bytes, told)
        if sha256_file(part) != file.sha256 and begun:
            # What a power cut left need not be what was written.
            os.truncate(part, 0)
            download(self.uri, file.name, part, file.bytes, told)
        if sha256_file(part) != file.sha256:
            part.unlink()
            raise DataError(
                f"{join(self.uri, file.name)} does not have the hash of its manifest; upload the data set again"
            )
        part.replace(path)
        remember(path, file.sha256)

    def _hold(self) -> None:
        """Keep the data set's folder from being removed for as long as this object lives."""
        _make(self.folder)
        while True:
            try:
                number = _open(self.folder / _USED)
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES) or not (self.folder / _USED).is_file():
                    raise
                # Somebody else's copies, or a disk that nobody may write to: what is there can be read.
                number = os.open(self.folder / _USED, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(number, fcntl.LOCK_SH)
            if _is_still(self.folder / _USED, number):
                break
            os.close(number)
            _make(self.folder)
        weakref.finalize(self, os.close, number)
        with contextlib.suppress(OSError):
            os.utime(number)

    def _make_room(self, needed: int, part: Path) -> None:
        """Remove the data sets that were read last before all others until `needed` bytes fit; raises DataError."""
        root = self.folder.parent
        with _held(root / _LOCK):
            sizes = {folder: _sizes(folder, part) for folder in _folders(root)}
            free = shutil.disk_usage(root).free
            written, promised = (sum(column) for column in zip(*sizes.values(), strict=True))
            bound = min(_bound(written + free), written + free)
            for folder in sorted(sizes, key=_last_used):
                if promised + needed <= bound:
                    return
                if folder != self.folder and _remove(folder):
                    _log.info("%s made room for %s", folder, self.uri)
                    promised -= sizes.pop(folder)[1]
            if promised + needed <= bound:
                return
        others = promised - sizes[self.folder][1]
        error = DataAwayError if others else DataError
        raise error(
            f"{self.uri} needs {shown(needed)} more in the cache {root}, which may hold {shown(bound)} and holds "
            f"{shown(promised)}, of which {shown(others)} are other data sets that are in use; raise ${BOUND}, or "
            f"name a larger disk in $HRGRID_CACHE"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"the cache {cache_folder()}"
            reason = error.strerror or error
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DataError(
                    f"{where} cannot take more of {self.uri}: {reason}; free some space, or name another folder in "
                    f"$HRGRID_CACHE"
                ) from error
            raise DataError(
                f"{where} cannot be used for {self.uri}: {reason}; name a folder that you may write to in "
                f"$HRGRID_CACHE"
            ) from error


class _Told:
    """How far a download of several files is."""

    def __init__(self, uri: str, folder: Path, files: Sequence[RemoteFile], progress: Progress | None) -> None:
        self._uri, self._folder, self._progress = uri, folder, progress
        self._total, self._files = sum(file.bytes for file in files), len(files)
        self._here = self._brought = 0
        self._began = self._said = time.monotonic()
        self._guard = threading.Lock()
        self.stopped = threading.Event()

    def block(self, size: int) -> None:
        """Count bytes that were brought."""
        if self.stopped.is_set():
            raise DataAwayError(f"the download of {self._uri} was stopped")
        with self._guard:
            self._brought += size
            if self._progress is None and time.monotonic() - self._said > _TELL_SECONDS:
                self._said = time.monotonic()
                rate = self._brought / (self._said - self._began) / 1e6
                _log.info(
                    "bringing %s to %s: %d of %d files here, %s brought of at most %s, %.0f MB/s",
                    self._uri, self._folder, self._here, self._files, shown(self._brought), shown(self._total), rate,
                )  # fmt: skip

    def file(self, file: RemoteFile) -> None:
        """Count a file that is here."""
        with self._guard:
            self._here += 1
            if self._progress is not None:
                self._progress(self._here, self._files, file.name)


def _is_good(path: Path, file: RemoteFile, *, anew: bool = False) -> bool:
    try:
        return path.stat().st_size == file.bytes and hash_of(path, anew=anew) == file.sha256
    except FileNotFoundError:
        return False


def _bound(disk: int) -> float:
    """What all copies together may take, in bytes, where they and what is free are `disk`."""
    bound = gigabytes(BOUND)
    return _SHARE * disk if bound is None else bound


def gigabytes(variable: str, *, least: float = 1e-9) -> float | None:
    """Return the bytes that an environment variable says in units of 1e9, None if it is unset; raises DataError."""
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value < float("inf"):
        raise DataError(f"${variable} is {text!r}, which is no number of gigabytes; give one such as 200")
    return value * 1e9


def shown(size: float) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _folders(root: Path) -> list[Path]:
    return [folder for folder in root.iterdir() if folder.is_dir()]


def _sizes(folder: Path, own: Path | None = None) -> tuple[int, int]:
    """What a data set's files take, and what they will when all are whole but `own`, in bytes."""
    written = promised = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            # Scratch files have holes, which are promised.
            written += min(status.st_size, 512 * status.st_blocks)
            begun = entry.name.endswith(_PART) and (own is None or entry.name != own.name)
            promised += int(entry.name.split(".")[-2]) if begun else status.st_size
    return written, promised


def _last_used(folder: Path) -> float:
    try:
        return (folder / _USED).stat().st_mtime
    except OSError:
        return 0.0


def _remove(folder: Path) -> bool:
    """Remove a data set's copies unless a process reads them; returns whether they are gone."""
    try:
        number = _open(folder / _USED)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except OSError:
        # Somebody reads them, or they are another user's.
        return False
    finally:
        os.close(number)
    return True


def _discard_scratch(root: Path, boot: str) -> None:
    """Remove scratch files of other boots that nobody uses, and unfinished ones; the lock of the cache is held."""
    for part in root.glob(f"*/*{_SCRATCH}.*{_PART}"):
        with contextlib.suppress(OSError):
            part.unlink()
    for old in root.glob(f"*/*{_SCRATCH}"):
        if not old.name.endswith(f"-{boot}{_SCRATCH}"):
            with contextlib.suppress(OSError), open(old, "rb") as file:
                # Where machines share a cache, the boot may be that of another one.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                old.unlink()


def _make(folder: Path) -> None:
    """Make a folder and those above it, open to whom the one above is open."""
    if folder.is_dir():
        return
    _make(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        with contextlib.suppress(OSError):
            folder.chmod(folder.parent.stat().st_mode & 0o7777)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")


def _open(path: Path) -> int:
    """Open a file to lock or to write it, for whoever may write to its folder."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(OSError):
        os.fchmod(number, path.parent.stat().st_mode & 0o666)
    return number


def _is_still(path: Path, number: int) -> bool:
    """Whether an open file is the one at a path: a lock on a removed one keeps nobody out."""
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False


@contextmanager
def _held(path: Path) -> Iterator[None]:
    number = _open(path)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextmanager
def _locked(part: Path) -> Iterator[Path]:
    """Hold the lock of an unfinished file, which is made if it is not there."""
    while True:
        number = _open(part)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            # Whoever held it before may have renamed or removed it.
            if _is_still(part, number):
                yield part
                return
        finally:
            os.close(number)
