"""Checkpoints of one trial: files, then a manifest with their hashes. Without a valid manifest there is no checkpoint.

A writer that dies in the middle of an upload leaves a folder without a manifest, which nobody ever reads; a file that
rots or is cut short no longer matches its hash, and the checkpoint before it is taken instead.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import StorageError
from orchestrator.storage import Storage
from orchestrator.workload import Json

__all__ = ["MANIFEST", "Checkpoint", "CheckpointStore"]

MANIFEST = "manifest.json"
FORMAT = 1

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of the trial `key`, at trials/<key>/checkpoints/<step> in a storage."""

    storage: Storage
    key: str
    warn: Callable[[str], None] = _log.warning
    """Told, in one sentence, of every checkpoint that is passed over because it is damaged."""
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
    ) -> None:
        """Upload the files of a local folder, then the manifest that makes them a checkpoint; raises StorageError."""
        files = [_described(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()]
        if not files:
            raise StorageError(f"the checkpoint folder {folder} of trial {self.key} is empty; nothing was saved")
        self.guard()
        target = self._path(step)
        if self.storage.exists(f"{target}/{MANIFEST}"):
            self._remove(step)
        self.storage.upload(folder, target)
        self.guard()
        document = {"format": FORMAT, "key": self.key, "step": step, "metrics": dict(metrics), "best": best}
        self.storage.write_json(f"{target}/{MANIFEST}", {**document, "info": dict(info or {}), "files": files})

    def steps(self) -> tuple[int, ...]:
        """Return the steps of all checkpoints that have a manifest, ascending."""
        return tuple(step for step in self._folders() if self.storage.exists(f"{self._path(step)}/{MANIFEST}"))

    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint that has a manifest, without downloading anything."""
        newest_first = reversed(self._folders())
        return next((s for s in newest_first if self.storage.exists(f"{self._path(s)}/{MANIFEST}")), None)

    def latest(self, download_to: Path) -> Checkpoint | None:
        """Download the newest checkpoint whose hashes verify into `download_to/<step>`; None if there is none."""
        return self._first_sound(reversed(self._folders()), download_to, best_only=False)

    def best(self, download_to: Path) -> Checkpoint | None:
        """Download the newest checkpoint that was the best when saved, into `download_to/<step>`; None if none was."""
        return self._first_sound(reversed(self._folders()), download_to, best_only=True)

    def prune(self, keep_last: int = 2) -> None:
        """Delete all but the last `keep_last`, the best, and what a running upload may be writing."""
        complete = self.steps()
        if not complete:
            return
        best = next((step for step in reversed(complete) if self._flagged_best(step)), None)
        keep = {*complete[-keep_last:], best}
        for step in self._folders():
            if step not in keep and step < complete[-1]:
                self._remove(step)

    def _path(self, step: int) -> str:
        return f"trials/{self.key}/checkpoints/{step:08d}"

    def _folders(self) -> tuple[int, ...]:
        names = self.storage.list(f"trials/{self.key}/checkpoints")
        return tuple(sorted(int(name) for name in names if name.isdigit()))

    def _remove(self, step: int) -> None:
        # The manifest goes first, so that a reader never trusts a folder that is being emptied.
        self.storage.delete(f"{self._path(step)}/{MANIFEST}")
        self.storage.delete(self._path(step))

    def _manifest(self, step: int) -> dict[str, Json] | None:
        try:
            manifest: dict[str, Json] | None = self.storage.find_json(f"{self._path(step)}/{MANIFEST}")
            return manifest
        except StorageError as error:
            self._pass_over(step, str(error))
            return None

    def _flagged_best(self, step: int) -> bool:
        manifest = self._manifest(step)
        return manifest is not None and bool(manifest.get("best"))

    def _first_sound(self, steps: Iterable[int], download_to: Path, *, best_only: bool) -> Checkpoint | None:
        for step in steps:
            manifest = self._manifest(step)
            if manifest is None or (best_only and not manifest.get("best")):
                continue
            folder = download_to / f"{step:08d}"
            shutil.rmtree(folder, ignore_errors=True)
            self.storage.download(self._path(step), folder)
            fault = _fault(folder, manifest)
            if fault is None:
                return Checkpoint(
                    path=folder, step=step, metrics=manifest["metrics"], best=manifest["best"], info=manifest["info"]
                )
            self._pass_over(step, fault)
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def _pass_over(self, step: int, fault: str) -> None:
        self.warn(f"checkpoint {step} of trial {self.key} is damaged ({fault}); falling back to the one before")


def _described(folder: Path, file: Path) -> dict[str, Json]:
    return {"file": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fault(folder: Path, manifest: Mapping[str, Json]) -> str | None:
    """Return what is wrong with a downloaded checkpoint, or None."""
    if manifest.get("format") != FORMAT or not {"files", "metrics", "best", "info"} <= set(manifest):
        return f"its manifest has format {manifest.get('format')!r}, not {FORMAT}"
    for entry in manifest["files"]:
        file = folder / entry["file"]
        if not file.is_file():
            return f"{entry['file']} is missing"
        if file.stat().st_size != entry["size"]:
            return f"{entry['file']} has {file.stat().st_size} bytes instead of {entry['size']}"
        if _sha256(file) != entry["sha256"]:
            return f"the sha256 of {entry['file']} differs"
    return None
