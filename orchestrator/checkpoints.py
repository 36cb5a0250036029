"""Checkpoints of one trial: files, then a manifest with their hashes. Without a valid manifest there is no checkpoint.

A writer that dies in the middle of an upload leaves a folder without a manifest, which nobody ever takes; a file that
rots or is cut short no longer matches its hash, and the checkpoint before it is taken instead. A damaged one is
marked, so that it is looked at once only, and kept as evidence until its trial is finished.

trials/<key>/checkpoints/<step>/        files and manifest.json; <step>-<n> where the step was saved again
trials/<key>/checkpoints/<step>/damaged.json    what was found wrong with it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import StorageError
from orchestrator.storage import Storage
from orchestrator.workload import Json

__all__ = ["MANIFEST", "MARK", "Checkpoint", "CheckpointStore", "DamagedError", "is_full", "megabytes"]

MANIFEST = "manifest.json"
MARK = "damaged.json"
FORMAT = 1

_log = logging.getLogger(__name__)
_NAME = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint that was downloaded and verified."""

    path: Path
    """Local folder with the files as they were saved, and the manifest."""

    step: int
    """Iterations completed when it was saved."""

    metrics: Mapping[str, float]
    """Metrics known when it was saved."""

    best: bool
    """It was the best so far when it was saved."""

    info: Mapping[str, Json] = field(default_factory=dict)
    """What the writer noted beside: attempt, workers, host."""

    @property
    def name(self) -> str:
        """Name of its folder in the storage."""
        return self.path.name


class DamagedError(Exception):
    """A checkpoint is not what its manifest says; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of the trial `key`, at trials/<key>/checkpoints/<step> in a storage."""

    storage: Storage
    key: str
    warn: Callable[[str], None] = _log.warning
    """Told, in one sentence, of every checkpoint that is passed over and of the one that is taken instead."""
    guard: Callable[[], None] = lambda: None
    """Called before anything is changed, and again before the manifest; raises when the writer's lease has ended."""

    def save(
        self,
        folder: Path,
        step: int,
        metrics: Mapping[str, float],
        *,
        best: bool = False,
        info: Mapping[str, Json] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Upload the files of a local folder, then the manifest that makes them a checkpoint; raises StorageError.

        A step that is there already is replaced by what is then complete beside it, so that it is never missing.
        `wanted` is asked before the manifest is written: False ends the saving with a StorageError.
        """
        files = [_described(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()]
        if not files:
            raise StorageError(f"the checkpoint folder {folder} of trial {self.key} is empty; nothing was saved")
        document = {"format": FORMAT, "key": self.key, "step": step, "metrics": dict(metrics), "best": best}
        document |= {"info": dict(info or {}), "files": files}
        self.guard()
        earlier = {name: self._contents(name) for name in self.names() if _place(name)[0] == step}
        name = next((name for name, content in earlier.items() if self._holds(name, content, files)), None)
        if name is None:
            turn = max((_place(name)[1] for name in earlier), default=-1) + 1
            name = f"{step:08d}-{turn:03d}" if turn else f"{step:08d}"
            self._upload(folder, name, sum(int(entry["size"]) for entry in files))
        self.guard()
        if not wanted():
            raise StorageError(f"checkpoint {step} of trial {self.key} was given up before it was complete")
        self.storage.write_json(f"{self._path(name)}/{MANIFEST}", document)
        for other, content in earlier.items():
            if other != name and MARK not in content:
                self._remove(other)

    def steps(self) -> tuple[int, ...]:
        """Return the steps of all checkpoints that have a manifest and were not found damaged, ascending."""
        return tuple(dict.fromkeys(_place(name)[0] for name in self.names() if self._is_complete(name)))

    def names(self) -> tuple[str, ...]:
        """Return the names of all folders of checkpoints, complete or not, the newest last."""
        names = self.storage.list(f"trials/{self.key}/checkpoints")
        return tuple(sorted((name for name in names if _NAME.fullmatch(name)), key=_place))

    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint that has a manifest, without downloading anything."""
        return next((_place(name)[0] for name in reversed(self.names()) if self._is_complete(name)), None)

    def latest(self, download_to: Path) -> Checkpoint | None:
        """Download the newest checkpoint whose hashes verify into a folder of `download_to`; None if there is none.

        One that does not is marked and passed over. Raises StorageError while the storage is away.
        """
        return self._first_sound(download_to, best_only=False)

    def best(self, download_to: Path) -> Checkpoint | None:
        """Download the newest checkpoint that was the best when saved; None if none was. Otherwise as `latest`."""
        return self._first_sound(download_to, best_only=True)

    def fetch(self, name: str, download_to: Path) -> Checkpoint:
        """Download one checkpoint into `download_to/<name>` and verify it; raises DamagedError and StorageError."""
        manifest = self._manifest(name)
        if manifest is None:
            raise DamagedError(f"no {MANIFEST}: its upload has not ended, or the file was lost")
        folder = download_to / name
        # What comes over a network can be wrong without being stored wrong: a second look decides.
        for look in (1,) if self.storage.is_local else (1, 2):
            shutil.rmtree(folder, ignore_errors=True)
            self.storage.download(self._path(name), folder)
            fault = _fault(folder, manifest)
            if fault is None:
                return _opened(folder, manifest)
            _log.debug("checkpoint %s of trial %s, look %d: %s", name, self.key, look, fault)
        shutil.rmtree(folder, ignore_errors=True)
        raise DamagedError(fault)

    def mark(self, name: str, fault: str) -> None:
        """Note that a checkpoint is damaged: it is not taken any more, and deleted when the trial is finished."""
        document = {"fault": fault, "found": time.time(), "host": socket.gethostname()}
        self.storage.write_json(f"{self._path(name)}/{MARK}", document)

    def is_marked(self, name: str) -> bool:
        """Tell whether a checkpoint was found damaged."""
        return self.storage.exists(f"{self._path(name)}/{MARK}")

    def prune(self, keep_last: int = 2) -> None:
        """Delete all but the last `keep_last`, the best, the damaged, and what a running upload may be writing."""
        contents = {name: self._contents(name) for name in self.names()}
        complete = [name for name, content in contents.items() if MANIFEST in content and MARK not in content]
        if not complete:
            return
        self.guard()
        best = next((name for name in reversed(complete) if self._flagged_best(name)), None)
        keep = {*complete[-max(1, keep_last) :], best}
        for name in contents:
            if name not in keep and MARK not in contents[name] and _place(name) < _place(complete[-1]):
                self._remove(name)

    def sweep(self, *, finished: bool) -> list[str]:
        """Delete folders without a manifest, and the damaged ones too if the trial is finished; return their names.

        Only for whoever trains the trial, or when nobody does: a running upload is a folder without a manifest too.
        """
        swept = []
        for name in self.names():
            content = self._contents(name)
            if (finished and MARK in content) or not content & {MANIFEST, MARK}:
                self._remove(name)
                swept.append(name)
        return swept

    def opened(self, name: str, folder: Path) -> Checkpoint:
        """Return the checkpoint that lies, verified, in `folder/<name>`."""
        return _opened(folder / name, json.loads((folder / name / MANIFEST).read_bytes()))

    def _path(self, name: str) -> str:
        return f"trials/{self.key}/checkpoints/{name}"

    def _contents(self, name: str) -> set[str]:
        return set(self.storage.list(self._path(name)))

    def _is_complete(self, name: str) -> bool:
        content = self._contents(name)
        return MANIFEST in content and MARK not in content

    def _holds(self, name: str, content: set[str], files: list[dict[str, Json]]) -> bool:
        """Tell whether a checkpoint is complete and has exactly these files."""
        if MANIFEST not in content or MARK in content:
            return False
        with contextlib.suppress(DamagedError):
            return (self._manifest(name) or {}).get("files") == files
        return False

    def _upload(self, folder: Path, name: str, size: int) -> None:
        try:
            self.storage.upload(folder, self._path(name))
        except StorageError as error:
            if self.storage.is_local:  # a storage that is away would only make everybody wait once more
                with contextlib.suppress(StorageError):
                    self.storage.delete(self._path(name))
            if not is_full(error):
                raise
            free = shutil.disk_usage(self.storage.uri).free if self.storage.is_local else 0
            raise StorageError(
                f"the disk of the storage {self.storage.uri} is full: the checkpoint needs {megabytes(size)}, "
                f"{megabytes(free)} are free"
            ) from error

    def _remove(self, name: str) -> None:
        # The manifest goes first, so that a reader never trusts a folder that is being emptied.
        self.storage.delete(f"{self._path(name)}/{MANIFEST}")
        self.storage.delete(self._path(name))

    def _manifest(self, name: str) -> dict[str, Json] | None:
        """Return a manifest, or None when there is none; raises DamagedError for one that cannot be used."""
        content = self.storage.find_bytes(f"{self._path(name)}/{MANIFEST}")
        if content is None:
            return None
        try:
            manifest = json.loads(content)
        except ValueError as error:
            raise DamagedError(f"{MANIFEST} is no JSON: {error}") from error
        known = {"files", "metrics", "best", "info", "step"}
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not known <= set(manifest):
            found = manifest.get("format") if isinstance(manifest, dict) else manifest
            raise DamagedError(f"its {MANIFEST} has format {found!r}, not {FORMAT}, or lacks entries")
        return manifest

    def _flagged_best(self, name: str) -> bool:
        with contextlib.suppress(DamagedError):
            return bool((self._manifest(name) or {}).get("best"))
        return False

    def _first_sound(self, download_to: Path, *, best_only: bool) -> Checkpoint | None:
        names = self.names()
        found = self._sound_of(reversed(names), download_to, best_only=best_only)
        if found is None and self.names() != names:
            # Whoever trains has saved others and deleted these meanwhile.
            return self._first_sound(download_to, best_only=best_only)
        return found

    def _sound_of(self, names: Iterable[str], download_to: Path, *, best_only: bool) -> Checkpoint | None:
        passed: list[str] = []
        found = None
        for name in names:
            content = self._contents(name)
            if best_only and (MANIFEST not in content or not self._flagged_best(name)):
                continue
            try:
                if MARK in content:
                    raise DamagedError(f"found before: {self._known_fault(name)}")
                found = self.fetch(name, download_to)
                break
            except DamagedError as error:
                if MANIFEST in content and MANIFEST not in self._contents(name):
                    continue  # just being deleted by whoever trains
                state = "damaged" if content & {MANIFEST, MARK} else "incomplete"
                passed.append(f"checkpoint {_place(name)[0]} of trial {self.key} is {state} ({error})")
                # Without a manifest it may still be on its way: never marked.
                if content >= {MANIFEST} and MARK not in content:
                    self._try_to_mark(name, str(error))
        instead = "no other is left" if found is None else f"checkpoint {found.step} is taken instead"
        for sentence in passed:
            self.warn(f"{sentence}; {instead}")
        return found

    def _known_fault(self, name: str) -> str:
        try:
            return str(json.loads(self.storage.find_bytes(f"{self._path(name)}/{MARK}") or b"{}").get("fault"))
        except ValueError:
            return "unknown"

    def _try_to_mark(self, name: str, fault: str) -> None:
        try:
            self.mark(name, fault)
        except StorageError as error:  # somebody who may only read
            _log.debug("checkpoint %s of trial %s could not be marked: %s", name, self.key, error)


def is_full(error: BaseException | None) -> bool:
    """Tell whether a full disk or a used-up quota is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__cause__ or error.__context__
    return False


def megabytes(size: int) -> str:
    """Return a size in bytes as text in units of 1e6 bytes."""
    return f"{size / 1e6:,.1f} MB"


def _place(name: str) -> tuple[int, int]:
    """Return the step of a folder, and which of several of this step it is."""
    found = _NAME.fullmatch(name)
    assert found is not None
    return int(found[1]), int(found[2] or 0)


def _opened(folder: Path, manifest: Mapping[str, Json]) -> Checkpoint:
    known = {name: manifest[name] for name in ("step", "metrics", "best", "info")}
    return Checkpoint(path=folder, **known)


def _described(folder: Path, file: Path) -> dict[str, Json]:
    return {"file": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fault(folder: Path, manifest: Mapping[str, Json]) -> str | None:
    """Return what is wrong with a downloaded checkpoint, or None."""
    for entry in manifest["files"]:
        file = folder / entry["file"]
        try:
            if not file.is_file():
                return f"{entry['file']} is missing"
            if file.stat().st_size != entry["size"]:
                return f"{entry['file']} has {file.stat().st_size} bytes instead of {entry['size']}"
            if _sha256(file) != entry["sha256"]:
                return f"the sha256 of {entry['file']} differs"
        except OSError as error:  # a bad sector
            return f"{entry['file']} cannot be read: {error.strerror}"
    return None
