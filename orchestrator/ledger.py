"""What is known of every trial, in storage: the only truth about what is done. One small JSON file per fact.

benchmarks/<name>/<n>-<hash>.json      cells that a launch has added to a benchmark; never changed
trials/<key>/spec.json                 what the trial is
trials/<key>/progress.json             how far it is, rewritten while it runs
trials/<key>/result.json               how it ended
trials/<key>/leases/<n>.json           who trains it now: the highest number holds (orchestrator/leases.py)
trials/<key>/shown/                    curves and tables that reports draw (orchestrator/shown.py)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import LeaseLostError, UsageError
from orchestrator.leases import FRESH_SECONDS, Lease, Leases
from orchestrator.shown import Exhibit
from orchestrator.storage import Storage
from orchestrator.workload import Cell, Json, Spec

__all__ = ["FRESH_SECONDS", "Entry", "Lease", "Ledger", "State", "TrialRecord"]

State = Literal["new", "running", "interrupted", "finished", "failed", "stopped"]

_T = TypeVar("_T")

_THREADS, _REMOTE_THREADS = 16, 32
_TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One trial of a benchmark's list."""

    cell: str
    key: str
    facets: Mapping[str, str]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """Everything that the ledger knows of one trial at one moment."""

    key: str
    state: State
    spec: Mapping[str, Json] | None = None
    """None also where the result says what reports ask of it: a read less for each of many trials."""

    progress: Mapping[str, Json] | None = None
    result: Mapping[str, Json] | None = None
    checkpoint_step: int | None = None
    """Step of the newest complete checkpoint."""

    age: float | None = None
    """Seconds since the last progress."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The final metrics, or the last ones while there is no result."""
        source = self.result if self.state in ("finished", "failed", "stopped") else self.progress
        return (source or {}).get("metrics") or {}

    @property
    def run_id(self) -> str | None:
        """The tracking run."""
        return (self.result or {}).get("run_id") or (self.progress or {}).get("run_id")

    @property
    def warning(self) -> str:
        """One sentence if it runs, or ran, far below its reference, else empty."""
        return (self.progress or {}).get("warning") or ""

    @property
    def device(self) -> str | None:
        """What it was computed on, as its workers said."""
        return (self.progress or {}).get("device")


@dataclass(frozen=True, slots=True)
class Ledger:
    """Reads and writes the facts of a storage."""

    storage: Storage
    clock: Callable[[], float] = time.time

    def benchmark(self, name: str) -> list[Entry]:
        """Return a benchmark's trials in the order they were added; empty when there is none of this name."""
        documents = self.each(self.storage.read_json, self._additions(name))
        known: dict[str, Entry] = {}
        for cell in (cell for document in documents for cell in document["cells"]):
            known.setdefault(cell["key"], Entry(**cell))
        return list(known.values())

    def benchmarks(self) -> list[str]:
        """Return the names of all benchmarks."""
        return self.storage.list("benchmarks")

    def add_benchmark(self, name: str, entries: Iterable[Entry]) -> None:
        """Add trials to a benchmark's list; one that is there already (same key) is kept as it is.

        Nothing is ever rewritten: launches that add at the same moment cannot lose one another's trials.
        """
        known = {entry.key for entry in self.benchmark(name)}
        number = len(self._additions(name)) + 1
        new = {entry.key: entry for entry in entries if entry.key not in known}
        if not new:
            return
        cells = [dataclasses.asdict(entry) for entry in new.values()]
        content = (json.dumps({"name": name, "cells": cells}, indent=1) + "\n").encode()
        digest = hashlib.sha256(content).hexdigest()[:12]
        self.storage.create_exclusive(f"benchmarks/{name}/{number:06d}-{digest}.json", content)

    def write_spec(self, key: str, spec: Spec) -> None:
        """Record what a trial is."""
        self.storage.write_json(f"trials/{key}/spec.json", dataclasses.asdict(spec))

    def spec(self, key: str) -> Spec:
        """Return a trial's spec; raises UsageError when there is no such trial."""
        document = self.storage.find_json(f"trials/{key}/spec.json")
        if document is None:
            raise UsageError(f"no trial {key!r} in {self.storage.uri}; `hrgrid status` lists those there are")
        cell, reasons = Cell(**document.pop("cell")), tuple(document.pop("not_comparable"))
        return Spec(cell=cell, free=tuple(document.pop("free", ())), not_comparable=reasons, **document)

    def write_progress(self, key: str, document: Mapping[str, Json], *, lease: int | None = None) -> None:
        """Record how far a trial is; `updated` (epoch seconds) is filled in when it is not given.

        With the lease that it is written under: raises LeaseLostError, and writes nothing, if that has ended.
        """
        more: Mapping[str, Json] = {}
        if lease is not None:
            self.leases.require(key, lease)
            more = {"lease": lease}
        self.storage.write_json(f"trials/{key}/progress.json", {"updated": self.clock(), **document, **more})

    def write_result(self, key: str, document: Mapping[str, Json], *, lease: int | None = None) -> None:
        """Record how a trial ended: `state` finished, failed or stopped; `ended` is filled in when not given.

        With the lease that it is written under: raises LeaseLostError, and writes nothing, if that has ended.
        """
        if document.get("state") not in ("finished", "failed", "stopped"):
            raise ValueError(f"a result's state is finished, failed or stopped, not {document.get('state')!r}")
        path, document = f"trials/{key}/result.json", {"ended": self.clock(), **document}
        if lease is None:
            self.storage.write_json(path, document)
            return
        content = (json.dumps({**document, "lease": lease}, indent=1) + "\n").encode()
        for _ in range(_TRIES):
            # Read first: who is stopped between the check and the write finds that the result has changed meanwhile.
            before = self.storage.find_stored(path)
            self.leases.require(key, lease)
            if before is None and self.storage.create_exclusive(path, content):
                return
            if before is not None and self.storage.replace(path, content, before.version):
                return
        raise LeaseLostError(f"others write the result of trial {key} at the same time; this launch writes none")

    def amend_result(self, key: str, known: Mapping[str, Json], changes: Mapping[str, Json]) -> bool:
        """Change entries of a result that is still the known one; False, and nothing written, if it is another."""
        path = f"trials/{key}/result.json"
        before = self.storage.find_stored(path)
        if before is None or self.storage.parsed(path, before.content) != known:
            return False
        content = (json.dumps({**known, **changes}, indent=1) + "\n").encode()
        return content == before.content or self.storage.replace(path, content, before.version)

    def write_picture(self, key: str, name: str, content: bytes) -> None:
        """Keep a picture of the evaluation, PNG or JPEG, for reports."""
        self.storage.write_bytes(f"trials/{key}/pictures/{name}", content)

    def pictures(self, keys: Iterable[str]) -> dict[str, dict[str, bytes]]:
        """Return the pictures of trials: key to name to PNG or JPEG file."""
        wanted = list(dict.fromkeys(keys))
        names = self.picture_names(wanted)
        paths = [f"trials/{key}/pictures/{name}" for key in wanted for name in names[key]]
        contents = dict(zip(paths, self.each(self.storage.read_bytes, paths), strict=True))
        return {key: {name: contents[f"trials/{key}/pictures/{name}"] for name in names[key]} for key in wanted}

    def picture_names(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the names of the pictures of trials."""
        wanted = list(dict.fromkeys(keys))
        found = self.each(lambda key: self.storage.list(f"trials/{key}/pictures"), wanted)
        return dict(zip(wanted, found, strict=True))

    def exhibits(self, keys: Iterable[str]) -> dict[str, Exhibit]:
        """Return the curves and tables of trials that reports draw; an older trial may have none."""
        wanted = list(dict.fromkeys(keys))
        return dict(zip(wanted, self.each(lambda key: Exhibit.read(self.storage, key), wanted), strict=True))

    def progress(self, key: str) -> Mapping[str, Json] | None:
        """Return the last progress, or None."""
        document: Mapping[str, Json] | None = self.storage.find_json(f"trials/{key}/progress.json")
        return document

    def result(self, key: str) -> Mapping[str, Json] | None:
        """Return the result, or None."""
        document: Mapping[str, Json] | None = self.storage.find_json(f"trials/{key}/result.json")
        return document

    def state(self, key: str) -> State:
        """Return the state of a trial."""
        return self._state(self.progress(key), self.result(key))

    def trial(self, key: str) -> TrialRecord:
        """Return everything that is known of a trial."""
        progress, result = self.progress(key), self.result(key)
        state = self._state(progress, result)
        return TrialRecord(
            key=key,
            state=state,
            spec=None if "not_comparable" in (result or {}) else self.storage.find_json(f"trials/{key}/spec.json"),
            progress=progress,
            result=result,
            checkpoint_step=None if state == "finished" else CheckpointStore(self.storage, key).latest_step(),
            age=None if progress is None else self.clock() - progress["updated"],
        )

    def trials(self, keys: Iterable[str]) -> dict[str, TrialRecord]:
        """Return the records of many trials, read at the same time; one that was never seen has state `new`."""
        names = list(dict.fromkeys(keys))
        return dict(zip(names, self.each(self.trial, names), strict=True))

    @property
    def leases(self) -> Leases:
        """Who trains which trial now."""
        return Leases(self.storage, self.clock)

    def claim(self, key: str, owner: str) -> int | None:
        """Take the lease of a trial; returns its number, or None while somebody else holds it. See `Leases.claim`."""
        return self.leases.claim(key, owner)

    def renew(self, key: str, owner: str, lease: int) -> bool:
        """Refresh a lease; returns False when it has ended: its holder must stop and write nothing more."""
        return self.leases.renew(key, owner, lease)

    def holds(self, key: str, lease: int) -> bool:
        """Tell whether a lease has not ended."""
        return self.leases.holds(key, lease)

    def release(self, key: str, owner: str, lease: int) -> None:
        """Give a lease back."""
        self.leases.release(key, owner, lease)

    def ask_stop(self, key: str, lease: int, reason: str = "") -> None:
        """Ask who trains a trial under a lease to make a checkpoint and end; the result then carries the reason."""
        self.storage.write_json(f"trials/{key}/stop.json", {"lease": lease, "reason": reason})

    def stop_reason(self, key: str, lease: int) -> str | None:
        """Return why a stop was asked of who holds this lease; None if none was, or without a reason."""
        document = self.storage.find_json(f"trials/{key}/stop.json") or {}
        return str(document.get("reason") or "") or None if document.get("lease") == lease else None

    def stop_asked(self, key: str, lease: int) -> bool:
        """Tell whether a stop was asked of who holds this lease."""
        return bool((self.storage.find_json(f"trials/{key}/stop.json") or {}).get("lease") == lease)

    def ask_regroup(self, key: str, lease: int, attempt: int) -> None:
        """Ask an attempt at a trial to make a checkpoint and end, since another number of workers goes on with it."""
        self.storage.write_json(f"trials/{key}/regroup.json", {"lease": lease, "attempt": attempt})

    def regroup_asked(self, key: str, lease: int, attempt: int) -> bool:
        """Tell whether that was asked of this attempt; what was asked of an earlier one is not."""
        asked = self.storage.find_json(f"trials/{key}/regroup.json") or {}
        return bool((asked.get("lease"), asked.get("attempt")) == (lease, attempt))

    def _additions(self, name: str) -> list[str]:
        return [f"benchmarks/{name}/{file}" for file in self.storage.list(f"benchmarks/{name}")]

    def each(self, read: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
        """Read many things at the same time."""
        if len(names) < 2:
            return [read(name) for name in names]
        threads = _THREADS if self.storage.is_local else _REMOTE_THREADS
        with ThreadPoolExecutor(min(threads, len(names))) as pool:
            return list(pool.map(read, names))

    def _state(self, progress: Mapping[str, Json] | None, result: Mapping[str, Json] | None) -> State:
        if result is not None and result["state"] == "finished":
            return "finished"
        if progress is not None and _is_newer(progress, result):
            # A sign of life from the future is of a clock that is wrong; then the lease tells, when it is asked for.
            age = abs(self.clock() - float(progress["updated"]))
            return "running" if age < FRESH_SECONDS else "interrupted"
        if result is None:
            return "new"
        state: State = result["state"]
        return state


def _is_newer(progress: Mapping[str, Json], result: Mapping[str, Json] | None) -> bool:
    """Tell whether a trial went on after a result: by their leases, since two machines have two clocks."""
    if result is None:
        return True
    begun, closed = progress.get("lease"), result.get("lease")
    if begun is not None and closed is not None:
        return bool(begun > closed)  # a result is the last thing that is written under a lease
    return float(progress["updated"]) > float(result["ended"])
