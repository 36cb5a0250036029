"""What the tracking store has not taken when a worker ended, kept in storage, because the worker's host may vanish.

trials/<key>/undelivered/points/<id>.jsonl     points of curves
trials/<key>/undelivered/artifacts/<path>      artifacts, the path quoted into one name
trials/<key>/undelivered/checkpoints/<name>    a checkpoint, last or best, that the run does not show yet
trials/<key>/undelivered/model/...             a model that is not registered yet, as it was packaged
"""

from __future__ import annotations

import urllib.parse
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.points import Point, dump, parse
from orchestrator.storage import Storage

__all__ = ["Undelivered"]


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The undelivered things of the trial `key`. All methods raise StorageError."""

    storage: Storage
    key: str

    def exists(self) -> bool:
        """Tell whether anything waits."""
        return any(self.storage.list(self._path(kind)) for kind in ("points", "artifacts", "checkpoints", "model"))

    def put_points(self, points: Iterable[Point]) -> None:
        """Keep points; those that are there already stay."""
        self.storage.write_bytes(self._path(f"points/{uuid.uuid4().hex}.jsonl"), dump(points).encode())

    def points(self) -> dict[str, list[Point]]:
        """Return the points of every file by the file's name."""
        found = {}
        for name in self.storage.list(self._path("points")):
            content = self.storage.find_bytes(self._path(f"points/{name}"))
            if content is not None:
                found[name] = parse(content.decode(errors="replace"), f"{self.storage.uri}/{self._path(name)}")
        return found

    def drop_points(self, names: Iterable[str]) -> None:
        """Forget files of points."""
        for name in names:
            self.storage.delete(self._path(f"points/{name}"))

    def put_artifact(self, path: str, content: bytes) -> None:
        """Keep an artifact of the run."""
        self.storage.write_bytes(self._path(f"artifacts/{urllib.parse.quote(path, safe='')}"), content)

    def artifacts(self) -> list[str]:
        """Return the paths of all artifacts that wait."""
        return [urllib.parse.unquote(name) for name in self.storage.list(self._path("artifacts"))]

    def artifact(self, path: str) -> bytes:
        """Return the content of an artifact that waits."""
        return self.storage.read_bytes(self._path(f"artifacts/{urllib.parse.quote(path, safe='')}"))

    def drop_artifact(self, path: str) -> None:
        """Forget an artifact."""
        self.storage.delete(self._path(f"artifacts/{urllib.parse.quote(path, safe='')}"))

    def want_checkpoint(self, name: str) -> None:
        """Note that the run shall show the checkpoint `last` or `best`, which has hundreds of megabytes and is kept
        in storage anyway."""
        self.storage.write_bytes(self._path(f"checkpoints/{name}"), b"wanted\n")

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints that the run does not show yet."""
        return self.storage.list(self._path("checkpoints"))

    def drop_checkpoint(self, name: str) -> None:
        """Forget that a checkpoint is wanted."""
        self.storage.delete(self._path(f"checkpoints/{name}"))

    def put_model(self, folder: Path) -> None:
        """Keep a packaged model."""
        self.storage.upload(folder, self._path("model"))

    def model(self, download_to: Path) -> bool:
        """Bring the model that waits into a folder; False if none does."""
        if not self.storage.list(self._path("model")):
            return False
        self.storage.download(self._path("model"), download_to)
        return True

    def drop_model(self) -> None:
        """Forget the model."""
        self.storage.delete(self._path("model"))

    def _path(self, below: str) -> str:
        return f"trials/{self.key}/undelivered/{below}".rstrip("/")
