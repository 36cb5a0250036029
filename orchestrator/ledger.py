"""What is known of every trial, in storage: the only truth about what is done. One small JSON file per fact.

benchmarks/<name>.json          the cells of a benchmark, merged over launches
trials/<key>/spec.json          what the trial is
trials/<key>/progress.json      how far it is, rewritten while it runs
trials/<key>/result.json        how it ended
trials/<key>/leases/<n>.json    who trains it now: the highest number holds
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import UsageError
from orchestrator.storage import Storage
from orchestrator.workload import Cell, Json, Spec

__all__ = ["FRESH_SECONDS", "Entry", "Ledger", "State", "TrialRecord"]

State = Literal["new", "running", "interrupted", "finished", "failed", "stopped"]

FRESH_SECONDS = 60.0
"""Progress or a lease older than this belongs to a process that is gone."""

_THREADS = 16


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
        document = self.storage.find_json(f"benchmarks/{name}.json") or {"cells": []}
        return [Entry(**cell) for cell in document["cells"]]

    def benchmarks(self) -> list[str]:
        """Return the names of all benchmarks."""
        return [name.removesuffix(".json") for name in self.storage.list("benchmarks") if name.endswith(".json")]

    def add_benchmark(self, name: str, entries: Iterable[Entry]) -> None:
        """Add trials to a benchmark's list; one that is there already (same key) is kept as it is."""
        wanted = list(entries)
        for _ in range(5):  # two launches that write at the same moment: the loser sees its trials missing
            known = {entry.key: entry for entry in self.benchmark(name)}
            if all(entry.key in known for entry in wanted):
                return
            merged = [*known.values(), *{e.key: e for e in wanted if e.key not in known}.values()]
            cells = [dataclasses.asdict(entry) for entry in merged]
            self.storage.write_json(f"benchmarks/{name}.json", {"name": name, "cells": cells})

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

    def write_progress(self, key: str, document: Mapping[str, Json]) -> None:
        """Record how far a trial is; `updated` (epoch seconds) is filled in when it is not given."""
        self.storage.write_json(f"trials/{key}/progress.json", {"updated": self.clock(), **document})

    def write_result(self, key: str, document: Mapping[str, Json]) -> None:
        """Record how a trial ended: `state` finished, failed or stopped; `ended` is filled in when not given."""
        if document.get("state") not in ("finished", "failed", "stopped"):
            raise ValueError(f"a result's state is finished, failed or stopped, not {document.get('state')!r}")
        self.storage.write_json(f"trials/{key}/result.json", {"ended": self.clock(), **document})

    def write_picture(self, key: str, name: str, content: bytes) -> None:
        """Keep a picture of the evaluation, PNG or JPEG, for reports."""
        self.storage.write_bytes(f"trials/{key}/pictures/{name}", content)

    def pictures(self, key: str, limit: int = 4) -> dict[str, bytes]:
        """Return the first pictures of a trial by name, as PNG or JPEG files."""
        folder = f"trials/{key}/pictures"
        return {name: self.storage.read_bytes(f"{folder}/{name}") for name in self.storage.list(folder)[:limit]}

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
            spec=self.storage.find_json(f"trials/{key}/spec.json"),
            progress=progress,
            result=result,
            checkpoint_step=None if state == "finished" else CheckpointStore(self.storage, key).latest_step(),
            age=None if progress is None else self.clock() - progress["updated"],
        )

    def trials(self, keys: Iterable[str]) -> dict[str, TrialRecord]:
        """Return the records of many trials, read at the same time; one that was never seen has state `new`."""
        names = list(dict.fromkeys(keys))
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(names, pool.map(self.trial, names), strict=True))

    def claim(self, key: str, owner: str) -> int | None:
        """Take the lease of a trial; returns its number, or None while somebody else holds it.

        A lease that was released, or that neither `renew` nor a progress has refreshed for 60 seconds, may be taken
        over. Of several who try at once exactly one gets it.
        """
        folder = f"trials/{key}/leases"
        numbers = [int(name.removesuffix(".json")) for name in self.storage.list(folder)]
        last = max(numbers, default=0)
        if last and self._held(key, last):
            return None
        document = {"owner": owner, "renewed": self.clock(), "released": False}
        taken = self.storage.create_exclusive(f"{folder}/{last + 1:06d}.json", json.dumps(document).encode())
        return last + 1 if taken else None

    def renew(self, key: str, owner: str, lease: int) -> bool:
        """Refresh a lease; returns False when somebody has taken it over, and then writes nothing."""
        return self._rewrite(key, lease, {"owner": owner, "renewed": self.clock(), "released": False})

    def release(self, key: str, owner: str, lease: int) -> None:
        """Give a lease back."""
        self._rewrite(key, lease, {"owner": owner, "renewed": self.clock(), "released": True})

    def _rewrite(self, key: str, lease: int, document: Mapping[str, Json]) -> bool:
        if self.storage.exists(f"trials/{key}/leases/{lease + 1:06d}.json"):
            return False
        self.storage.write_json(f"trials/{key}/leases/{lease:06d}.json", document)
        return True

    def _held(self, key: str, lease: int) -> bool:
        document = self.storage.read_json(f"trials/{key}/leases/{lease:06d}.json")
        if document["released"]:
            return False
        seen = max(document["renewed"], (self.progress(key) or {}).get("updated", 0.0))
        return bool(self.clock() - seen < FRESH_SECONDS)

    def _state(self, progress: Mapping[str, Json] | None, result: Mapping[str, Json] | None) -> State:
        if result is not None and result["state"] == "finished":
            return "finished"
        updated = -1.0 if progress is None else float(progress["updated"])
        ended = -1.0 if result is None else float(result["ended"])
        if progress is not None and updated > ended:
            return "running" if self.clock() - updated < FRESH_SECONDS else "interrupted"
        if result is None:
            return "new"
        state: State = result["state"]
        return state
