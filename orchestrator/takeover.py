"""Trials of a launch of this host that was killed: free at once, not only when their last sign of life is old."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.ledger import Ledger
from orchestrator.owners import is_alive, process_identity
from orchestrator.settings import Settings
from orchestrator.storage import Storage

__all__ = ["free_dead_trials"]


def free_dead_trials(settings: Settings, keys: Sequence[str]) -> list[str]:
    """Free the trials that a launch of this host left behind when it was killed; return their keys.

    Call it before planning: without it they count as running until their last sign of life is a minute old.
    """
    ledger, names = Ledger(Storage(settings.storage)), list(dict.fromkeys(keys))
    freed = ledger.each(lambda key: _free(ledger, key), names)
    return [key for key, done in zip(names, freed, strict=True) if done]


def _free(ledger: Ledger, key: str) -> bool:
    if (ledger.result(key) or {}).get("state") == "finished":
        return False
    lease = ledger.leases.last(key)
    if lease is None or is_alive(lease.owner):
        return False
    # It may also have been killed before its first progress, or between the last one and the release.
    ledger.release(key, process_identity(), lease.number)
    progress, ran = ledger.progress(key), ledger.state(key) == "running"
    if progress is not None and ran and progress.get("lease", lease.number) == lease.number:
        ledger.write_progress(key, {**progress, "updated": 0.0})
    return ran or not lease.released
