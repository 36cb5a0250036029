"""Who trains a trial: leases in storage, of which one launch at a time holds one, whatever clocks and networks do.

trials/<key>/leases/<n>.json, written by n's owner when it takes and renews the lease, and once by whoever ends it: the
owner itself, or another launch that found it without a sign of life. Every change names the version that it replaces,
so that of a renewal and a take-over at the same moment one fails. The number is a fencing token: what is written for a
trial names its lease, and a lease that has ended writes no more.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import LeaseLostError
from orchestrator.storage import Storage, Stored
from orchestrator.workload import Json

__all__ = ["FRESH_SECONDS", "Lease", "Leases"]

FRESH_SECONDS: Final = 60.0
"""A lease whose owner gave no sign of life for this long belongs to a process that is gone."""

_TRIES: Final = 5
"""Of a change that somebody else's change came before; there are hardly ever two who change a lease."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The newest lease of a trial."""

    number: int
    owner: str
    """Host, process and its start."""

    age: float
    """Seconds since its owner's last sign of life, by the storage's clock."""

    released: bool
    """Its owner gave it back, or another launch has ended it."""

    @property
    def held(self) -> bool:
        """Its owner lives and trains the trial."""
        return not self.released and self.age < FRESH_SECONDS


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of all trials of a storage."""

    storage: Storage
    clock: Callable[[], float] = time.time
    """For the times that people read; whether a lease is alive is told by the storage's own clock."""

    def claim(self, key: str, owner: str) -> int | None:
        """Take the lease of a trial; returns its number, or None while somebody else holds it.

        Of several who try at once exactly one gets it. A lease that was given back, or that neither a renewal nor a
        progress has refreshed for 60 seconds, is taken over, and so is one of the same owner, whose earlier driver
        must write no more. Raises StorageError.
        """
        last = self.last(key)
        if last is not None and last.held and last.owner != owner:
            return None
        number = 1
        if last is not None:
            number = last.number + 1
            if not last.released and not self._end(key, last.number, ended_by=owner, unless_fresh=last.owner != owner):
                return None
        taken = self.storage.create_exclusive(_path(key, number), self._document(owner, beat=0, released=False))
        return number if taken else None

    def last(self, key: str) -> Lease | None:
        """Return the newest lease of a trial, or None when there was none yet."""
        numbers = [int(name.removesuffix(".json")) for name in self.storage.list(f"trials/{key}/leases")]
        if not numbers:
            return None
        number = max(numbers)
        found = self._find(key, number)
        if found is None:
            return None
        stored, document = found
        age = stored.age if document["released"] else self._age(key, number, stored.age)
        return Lease(number=number, owner=str(document["owner"]), age=age, released=bool(document["released"]))

    def holds(self, key: str, lease: int) -> bool:
        """Tell whether a lease has not ended: given back, or taken over by another launch."""
        document = self.storage.find_json(_path(key, lease))
        return document is not None and not document["released"]

    def require(self, key: str, lease: int) -> None:
        """Raise LeaseLostError, which names who ended it, if a lease has ended."""
        document: Mapping[str, Json] = self.storage.find_json(_path(key, lease)) or {"released": True}
        if document["released"]:
            by = document.get("ended_by")
            who = "a newer driver of this launch" if by and by == document.get("owner") else "another launch"
            where = f" ({by})" if by else ""
            raise LeaseLostError(f"{who}{where} has taken over trial {key}; this one stops and writes nothing more")

    def renew(self, key: str, owner: str, lease: int) -> bool:
        """Refresh a lease; returns False when it has ended, and then writes nothing."""
        for _ in range(_TRIES):
            found = self._find(key, lease)
            if found is None or found[1]["released"]:
                return False
            stored, document = found
            content = self._document(owner, beat=int(document["beat"]) + 1, released=False)
            if self.storage.replace(_path(key, lease), content, stored.version):
                return True
        return self.holds(key, lease)

    def release(self, key: str, owner: str, lease: int) -> None:
        """Give a lease back; one that has ended is left as it is."""
        self._end(key, lease, ended_by=owner, unless_fresh=False)

    def end_silent(self, key: str, lease: int, by: str) -> bool:
        """End a lease for `by` if its owner has given no sign of life; False if it is held, or has ended already."""
        return self._end(key, lease, ended_by=by, unless_fresh=True)

    def _end(self, key: str, lease: int, *, ended_by: str, unless_fresh: bool) -> bool:
        """Mark a lease as ended; False if its owner has just given a sign of life, or somebody else has ended it."""
        for _ in range(_TRIES):
            found = self._find(key, lease)
            if found is None:
                return False
            stored, document = found
            if document["released"] or (unless_fresh and self._age(key, lease, stored.age) < FRESH_SECONDS):
                return False
            content = self._document(document["owner"], beat=document["beat"], released=True, ended_by=ended_by)
            if self.storage.replace(_path(key, lease), content, stored.version):
                return True
        return False

    def _age(self, key: str, lease: int, age: float) -> float:
        """Seconds since the last sign of life: a renewal, or a progress that was written under this lease."""
        if age < FRESH_SECONDS:
            return age
        path = f"trials/{key}/progress.json"
        progress = self.storage.find_stored(path)
        if progress is None or self.storage.parsed(path, progress.content).get("lease", lease) != lease:
            return age
        return min(age, progress.age)

    def _find(self, key: str, lease: int) -> tuple[Stored, Mapping[str, Json]] | None:
        stored = self.storage.find_stored(_path(key, lease))
        return None if stored is None else (stored, self.storage.parsed(_path(key, lease), stored.content))

    def _document(self, owner: str, *, beat: int, released: bool, **more: Json) -> bytes:
        document: Mapping[str, Json] = {
            "owner": owner, "renewed": self.clock(), "beat": beat, "released": released, **more,
            "nonce": uuid.uuid4().hex[:12],  # no two writes are equal, so each writer knows its own
        }  # fmt: skip
        return (json.dumps(document, indent=1) + "\n").encode()


def _path(key: str, lease: int) -> str:
    return f"trials/{key}/leases/{lease:06d}.json"
