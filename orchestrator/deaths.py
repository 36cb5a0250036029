"""How often the gang of a trial has died: too often is too often in a row without a new checkpoint in between.

A training of three weeks must survive any number of deaths as long as it goes forward. The count is kept in the
storage, at trials/<key>/deaths.json, since the gang, its controller and its driver may each be what dies.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import StorageError
from orchestrator.storage import Storage
from orchestrator.workload import Json

__all__ = ["DeathBook", "Deaths"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deaths:
    """The deaths of a trial's gang within one launch."""

    owner: str
    """The launch; another one counts from the beginning."""

    step: int = -1
    """Step of the newest checkpoint at the last death; -1: there was none."""

    row: int = 0
    """Deaths since that checkpoint was made, the last one included."""

    total: int = 0
    """All deaths."""

    signatures: tuple[str, ...] = ()
    """The exceptions of the last death."""

    repeated: bool = False
    """The last death was by an exception that the one before it was by, too, without progress between them."""

    def after(self, step: int | None, signatures: Iterable[str]) -> Deaths:
        """Return the count after one more death; `step` is that of the newest checkpoint now."""
        now, raised = -1 if step is None else step, tuple(sorted(set(signatures)))
        forward = now > self.step
        return Deaths(
            owner=self.owner,
            step=max(now, self.step),
            row=1 if forward else self.row + 1,
            total=self.total + 1,
            signatures=raised,
            repeated=not forward and bool({*raised} & {*self.signatures}),
        )

    @classmethod
    def from_json(cls, document: Json, owner: str) -> Self:
        """Return what was written, or nothing yet if that is of another launch or another form."""
        try:
            found = cls(**{**document, "signatures": tuple(document["signatures"])})
        except (TypeError, KeyError):
            return cls(owner=owner)
        return found if found.owner == owner else cls(owner=owner)


class DeathBook:
    """Counts the deaths of one trial within one launch; a storage that is away only makes it forgetful."""

    def __init__(self, storage: Storage, key: str, owner: str) -> None:
        self._storage, self._key = storage, key
        self._file = f"trials/{key}/deaths.json"
        self._deaths = Deaths(owner=owner)

    def known(self) -> Deaths:
        """Return the count so far; raises StorageError."""
        return Deaths.from_json(self._storage.find_json(self._file), self._deaths.owner)

    def count(self, signatures: Iterable[str] = ()) -> Deaths:
        """Count one more death, by these exceptions; returns the count."""
        step: int | None = None
        try:
            self._deaths = max(self._deaths, self.known(), key=lambda deaths: deaths.total)
            step = CheckpointStore(self._storage, self._key).latest_step()
        except StorageError as error:
            _log.warning("trial %s: its deaths are counted here alone: %s", self._key, error)
        self._deaths = self._deaths.after(step, signatures)
        try:
            self._storage.write_json(self._file, dataclasses.asdict(self._deaths))
        except StorageError as error:
            _log.warning("trial %s: a death is not written down: %s", self._key, error)
        return self._deaths
