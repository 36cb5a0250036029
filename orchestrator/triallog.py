"""The log of one worker of a trial: JSON lines for programs, text for people, kept in storage over all attempts."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.errors import StorageError
from orchestrator.patience import patiently
from orchestrator.scratch import Scratch
from orchestrator.storage import Storage
from orchestrator.workload import Event, Json

__all__ = ["TAIL", "TrialLog", "log_names", "read_tail"]

TAIL: Final = 40
"""Lines of a log that a failed trial's error carries."""

_log = logging.getLogger(__name__)


class TrialLog(logging.Handler):
    """Writes two local files, `rank<r>.jsonl` and `rank<r>.log`, and ships them to trials/<key>/logs of a storage.

    It also takes what the process logs: warnings of everybody, everything of the platform and the workload.
    """

    def __init__(self, storage: Storage, key: str, rank: int, packages: Sequence[str] = ("orchestrator",)) -> None:
        """Continues the log of an earlier attempt if the storage has one. `packages`: whose INFO records are taken."""
        super().__init__(logging.INFO)
        self._packages = tuple(packages)
        for package in packages:
            logging.getLogger(package).setLevel(logging.INFO)
        self._scratch = Scratch("log")
        self.folder = self._scratch.path
        self._storage = storage.child(f"trials/{key}/logs")
        self.names = (f"rank{rank}.jsonl", f"rank{rank}.log")
        self._guard = threading.Lock()
        self._shipped = -1
        self._broken = False
        self._lines = 0
        for name in self.names:
            (self.folder / name).write_bytes(self._earlier(name))
        logging.getLogger().addHandler(self)

    def _earlier(self, name: str) -> bytes:
        """What an earlier attempt wrote; without it the next shipping would put an empty log in its place."""
        what = f"the log {name}"
        return patiently(what, lambda: self._storage.find_bytes(name), say=_log.warning) or b""

    def event(self, event: Event, phase: str) -> None:
        """Write one event of the workload."""
        metrics = {name: round(float(value), 6) for name, value in event.metrics.items()}
        said = " ".join(f"{name} {value:g}" for name, value in metrics.items())
        document = {"phase": phase, "kind": event.kind, "step": event.step, "total": event.total, "metrics": metrics}
        self._write(document, f"{phase} {event.kind} {event.step}/{event.total} {said}".rstrip())

    def note(self, text: str, **details: Json) -> None:
        """Write a line that is no event."""
        self._write({"kind": "note", "text": text, **details}, text)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of Python's logging."""
        if record.levelno >= logging.WARNING or record.name.split(".")[0] in self._packages:
            self.note(f"{record.levelname.lower()}: {record.getMessage()}", logger=record.name)

    def ship(self) -> None:
        """Copy the files to storage if they have changed; a storage that is away is no error here."""
        with self._guard:
            if self._broken or self._lines == self._shipped:
                return
            try:
                lines, contents = self._lines, {name: (self.folder / name).read_bytes() for name in self.names}
            except OSError:
                self._broken = True
                return
        try:
            for name, content in contents.items():
                self._storage.write_bytes(name, content)
            self._shipped = lines
        except StorageError as error:
            _log.debug("log not shipped: %s", error)

    def retire(self, reason: str) -> None:
        """Leave the files in storage to another launch that writes them now; what was not shipped stays here."""
        _log.warning("%s (its log stays in %s for a day)", reason, self.folder)
        with self._guard:
            self._broken = True

    def close(self) -> None:
        """Ship what is left, stop taking records, and delete the local files if storage has them."""
        logging.getLogger().removeHandler(self)
        self.ship()
        if self._shipped == self._lines:
            self._scratch.close()
        else:
            self._scratch.leave()
        super().close()

    def _write(self, document: Mapping[str, Json], text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        with self._guard:
            if self._broken:
                return
            self._lines += 1
            try:
                self._append(0, json.dumps({"time": round(now, 3), **document}) + "\n")
                self._append(1, "".join(f"{stamp} {line}\n" for line in text.splitlines()))
            except OSError:
                # A full disk or a cleaned /tmp ends the log, not the training; storage keeps what it has.
                self._broken = True

    def _append(self, which: int, text: str) -> None:
        with (self.folder / self.names[which]).open("a", encoding="utf-8") as file:
            file.write(text)


def log_names(storage: Storage, key: str) -> list[str]:
    """Names of the log files of a trial in storage."""
    return storage.list(f"trials/{key}/logs")


def read_tail(storage: Storage, key: str, rank: int, lines: int = TAIL) -> str:
    """Return the last lines of a worker's text log; empty when there is none."""
    content = storage.find_bytes(f"trials/{key}/logs/rank{rank}.log") or b""
    return "\n".join(content.decode(errors="replace").splitlines()[-lines:])
