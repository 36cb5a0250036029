"""What dead processes left: half-uploaded checkpoints, unfinished writes, damaged checkpoints of finished trials."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import StorageError
from orchestrator.ledger import FRESH_SECONDS, Ledger

__all__ = ["sweep", "sweep_trial"]

UNFINISHED_SECONDS: Final = 10 * FRESH_SECONDS
"""Age of an unfinished write of a trial that nobody trains any more; its writer would have been heard of meanwhile."""

_log = logging.getLogger(__name__)


def sweep(ledger: Ledger, keys: Iterable[str]) -> list[str]:
    """Delete what dead processes left of trials that nobody trains now; return it as sentences.

    A trial that runs or whose lease is held is left alone. A storage that is away is no error: the next sweep finds
    the same.
    """
    swept: list[str] = []
    for key in dict.fromkeys(keys):
        try:
            lease = ledger.leases.last(key)
            if ledger.state(key) != "running" and not (lease is not None and lease.held):
                swept += sweep_trial(ledger, key)
        except StorageError as error:
            _log.info("trial %s is not swept: %s", key, error)
    return swept


def sweep_trial(ledger: Ledger, key: str) -> list[str]:
    """Delete what is left over of one trial, for its holder or when nobody trains it; raises StorageError."""
    finished = ledger.state(key) == "finished"
    names = CheckpointStore(ledger.storage, key).sweep(finished=finished)
    unfinished = ledger.storage.sweep(f"trials/{key}", UNFINISHED_SECONDS)
    swept = [f"trial {key}: checkpoint {name} deleted, which was not complete or damaged" for name in names]
    return swept + ([f"trial {key}: {unfinished} unfinished writes deleted"] if unfinished else [])
