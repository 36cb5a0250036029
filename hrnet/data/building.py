"""A data set under construction: beside its destination, by one process at a time, closed shards kept over a kill.

Everything is written into the hidden folder `.NAME.preparing` and renamed at the end, so that a data set appears whole
or not at all. A journal there says, after each closed shard, what the manifest needs of it and where to go on. The
next run keeps what the journal vouches for, as far as the source images up to there are those it was made of: after
a broken one has been mended, whatever came before it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hrnet.data.location import sha256_file
from hrnet.errors import DataError

__all__ = ["Building", "Closed", "Sources", "build", "exclusive"]

_JOURNAL = "journal.jsonl"

Sources = Mapping[str, Sequence[str]]
"""Split to one text for each of its source images, in order, that changes when the image or its label does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """A closed shard: its line of the journal."""

    split: str
    """Split that it is of."""

    shard: Mapping[str, Any]
    """Its record in the manifest: file, images, bytes, sha256."""

    names: tuple[str, ...]
    """Names of its samples."""

    digests: tuple[str, ...]
    """Hashes of its samples' content."""

    pixels: tuple[int, ...]
    """Number of pixels of each class, then of the ignored ones."""

    raw: tuple[int, ...]
    """Number of pixels of each of the 256 values of the label files; empty if not known."""

    job: int
    """Number, in its split, of the source image to go on with."""

    taken: int
    """How many samples of that source image are in closed shards already."""

    made_of: str = ""
    """Hash of the source images of the split that are in closed shards up to this one."""


class Building:
    """The folder of a data set under construction."""

    def __init__(self, folder: Path, closed: list[Closed], journal: Path, shard_bytes: int, sources: Sources) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self._closed = closed
        self._journal = journal
        self._sources = sources

    def closed(self, split: str) -> list[Closed]:
        """Return the shards of a split that are closed, in order."""
        return [each for each in self._closed if each.split == split]

    def start(self, split: str) -> tuple[int, int]:
        """Return the source image of a split to go on with, and how many of its samples there are already."""
        closed = self.closed(split)
        return (closed[-1].job, closed[-1].taken) if closed else (0, 0)

    def add(self, closed: Closed) -> None:
        """Enter a closed shard, whose content is on disk before the journal says so."""
        with (self.folder / closed.shard["file"]).open("rb") as file:
            os.fsync(file.fileno())
        closed = replace(closed, made_of=_made_of(closed, self._sources))
        _append(self._journal, asdict(closed))
        self._closed.append(closed)

    @property
    def bytes(self) -> int:
        """Size of the closed shards."""
        return sum(each.shard["bytes"] for each in self._closed)

    def finish(self, destination: Path) -> None:
        """Rename the folder to the destination, which is replaced if it exists."""
        self._journal.unlink()
        old = _replaced(destination)
        shutil.rmtree(old, ignore_errors=True)
        if destination.exists():
            destination.rename(old)
        self.folder.rename(destination)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def build(destination: Path, signature: str, shard_bytes: int, sources: Sources | None = None) -> Iterator[Building]:
    """Open the data set under construction for a destination; what is not worth keeping is removed when it fails.

    With `sources`, a construction that is interrupted or killed leaves its closed shards, one that fails does so when
    they fill a shard at least. They are taken up again as far as `signature` (how samples are made), the shards' size
    and the sources are the same. Raises DataError if another process is at it; one that passes through says what is
    kept.
    """
    with exclusive(destination):
        if not destination.exists() and _replaced(destination).exists():
            # A kill came between the two renames of `finish`.
            _replaced(destination).rename(destination)
        folder = destination.parent / f".{destination.name}.preparing"
        journal = folder / _JOURNAL
        head = {"signature": signature, "shard_bytes": shard_bytes}
        closed = [] if sources is None else _kept(folder, head, sources)
        if not closed:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        # A shard that was not closed, or is not kept, would be published beside the new ones.
        for path in set(folder.iterdir()) - {journal, *(folder / each.shard["file"] for each in closed)}:
            path.unlink()
        rewritten = folder / f"{_JOURNAL}.new"
        _append(rewritten, head, *(asdict(each) for each in closed))
        rewritten.replace(journal)
        building = Building(folder, closed, journal, shard_bytes, sources or {})
        keep = False
        try:
            yield building
        except BaseException as error:
            least = shard_bytes if isinstance(error, Exception) else 1
            keep = sources is not None and building.bytes >= least
            if keep and isinstance(error, DataError):
                raise DataError(f"{error}; what was finished stays in {folder} for the next run") from error
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def exclusive(destination: Path) -> Iterator[None]:
    """Hold the lock of a destination, a hidden file beside it; raises DataError if another process holds it."""
    path = destination.parent / f".{destination.name}.lock"
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "no folder", str(path.parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"another process prepares {destination} right now; wait for it or choose another destination"
                ) from None
            # Whoever held it before may have removed the file: a lock on a removed file keeps nobody out.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _replaced(destination: Path) -> Path:
    """Where the old data set lies for the moment in which the new one takes its place."""
    return destination.parent / f".{destination.name}.old"


def _made_of(closed: Closed, sources: Sources) -> str:
    used = list(sources.get(closed.split, ()))[: closed.job + (closed.taken > 0)]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


def _kept(folder: Path, head: Mapping[str, Any], sources: Sources) -> list[Closed]:
    """The closed shards of an interrupted construction whose sources and files are as its journal says."""
    try:
        lines = [json.loads(line) for line in _whole_lines(folder / _JOURNAL)]
    except (OSError, ValueError):
        return []
    if not lines or lines[0] != head:
        return []
    kept = []
    for values in lines[1:]:
        fields: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
        closed = Closed(**fields)
        file = folder / closed.shard["file"]
        if closed.made_of != _made_of(closed, sources):
            break
        if not file.is_file() or sha256_file(file) != closed.shard["sha256"]:
            break
        kept.append(closed)
    return kept


def _whole_lines(file: Path) -> list[str]:
    # A kill may cut the last line off.
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _append(file: Path, *values: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as journal:
        journal.writelines(f"{json.dumps(each)}\n" for each in values)
        journal.flush()
        os.fsync(journal.fileno())
