"""Points of metric curves that wait for the tracking store: their form, their bound, and the file that keeps them.

A file belongs to one process, which holds a lock on it; what a process that is gone has left may be taken over.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Final

from orchestrator.workload import Json

__all__ = ["Point", "SpillFile", "dump", "left_behind", "parse", "spool_folder", "take_over", "thinned"]

EXPENDABLE: Final = ("train/", "system/")
"""Names of which points may be left out when too many wait; a validation or a final score never is."""

_log = logging.getLogger(__name__)
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since the epoch."""

    @classmethod
    def of(cls, row: Sequence[Json]) -> Point:
        """Return the point of a row (name, value, step, timestamp); raises TypeError or ValueError for another."""
        name, value, step, timestamp = row
        return cls(name=str(name), value=float(value), step=int(step), timestamp=int(timestamp))

    def row(self) -> list[Json]:
        """Return name, value, step and timestamp, which JSON can hold."""
        return list(astuple(self))


def spool_folder() -> Path:
    """Where a host keeps what it could not deliver yet."""
    return Path(tempfile.gettempdir()) / "hrgrid-spool"


def dump(points: Iterable[Point]) -> str:
    """Return points as JSON lines."""
    return "".join(json.dumps(point.row()) + "\n" for point in points)


def parse(text: str, where: str) -> list[Point]:
    """Return the points of JSON lines; a line that a kill has cut is left out with a warning that names `where`."""
    points = []
    for line in text.splitlines():
        try:
            points.append(Point.of(json.loads(line)))
        except (TypeError, ValueError):
            _log.warning("%s: a damaged line is left out", where)
    return points


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """Return at most `limit` points if that can be: of the older half of what is expendable, every second per name
    is left out, again and again; the newest points and those of other names stay."""
    kept = list(points)
    while len(kept) > limit:
        loose = [index for index, point in enumerate(kept) if point.name.startswith(EXPENDABLE)]
        older, seen, dropped = loose[: (len(loose) + 1) // 2], Counter[str](), set()
        for index in older:
            seen[kept[index].name] += 1
            if seen[kept[index].name] % 2 == 0:
                dropped.add(index)
        if not dropped:
            break
        kept = [point for index, point in enumerate(kept) if index not in dropped]
    return kept


class SpillFile:
    """The waiting points of one recorder on the local disk; a disk that takes none is told once and no error."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / f"spill-{run_id}.{os.getpid()}-{next(_numbers)}.jsonl"
        self._stream: IO[str] | None = None
        self._told = False

    @property
    def size(self) -> int:
        """Bytes in the file; 0 while there is none."""
        return 0 if self._stream is None else self._stream.tell()

    def append(self, points: Sequence[Point]) -> None:
        """Write points behind those that are there; the first ones make the file."""
        if self._stream is None:
            self.replace(points)
            return
        try:
            self._stream.write(dump(points))
            self._stream.flush()
        except OSError as error:
            self._complain(error)

    def replace(self, points: Sequence[Point]) -> None:
        """Make the file hold exactly these points; without any there is no file. A kill leaves the old or the new."""
        old = self._stream
        if points:
            temporary = self.path.with_name(f"new-{self.path.name}")
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = temporary.open("w", encoding="utf-8")
                fcntl.flock(self._stream, fcntl.LOCK_EX)
                self._stream.write(dump(points))
                self._stream.flush()
                temporary.replace(self.path)
            except OSError as error:
                self._complain(error)
        else:
            self._stream = None
            self.path.unlink(missing_ok=True)
        if old is not None and old is not self._stream:
            old.close()

    def release(self) -> None:
        """Leave the file to whoever takes it over."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _complain(self, error: OSError) -> None:
        if not self._told:
            _log.warning("points wait in memory only, %s cannot be written: %s", self.path, error)
        self._told = True


def left_behind(folder: Path, run_id: str) -> list[Path]:
    """Return the files of waiting points of a run on this host, also those of recorders that live."""
    return sorted(folder.glob(f"spill-{run_id}*.jsonl"))


def take_over(folder: Path, run_id: str) -> Iterator[list[Point]]:
    """Yield the points of every file of a run whose process is gone; a file goes when the next one is asked for.

    Keep what was yielded before going on: then a kill at any moment loses nothing.
    """
    for path in left_behind(folder, run_id):
        try:
            with path.open(encoding="utf-8", errors="replace") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield parse(stream.read(), str(path))
                path.unlink(missing_ok=True)
        except OSError:  # held by a recorder that lives, or just taken over by another
            continue
