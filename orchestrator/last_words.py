"""What a worker leaves behind of a failure, in the storage of its trial, before it is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import StorageError
from orchestrator.storage import Storage
from orchestrator.triallog import TrialLog
from orchestrator.watchdog import HANG_FILE

__all__ = ["keep_evidence", "tell_of_hang"]


def tell_of_hang(trial: Storage, rank: int, log: TrialLog, stacks: Path, sentence: str) -> None:
    """Tell of a hang: in the log, to the judge in Ray's controller, and the stacks beside the logs."""
    reason = f"worker {rank} hangs: {sentence}"
    log.note(f"{reason}; logs/{stacks.name} shows where its threads stand; it ends itself")
    log.note(stacks.read_text(encoding="utf-8"))
    trial.write_json(HANG_FILE, {"time": time.time(), "rank": rank, "reason": reason})
    trial.write_bytes(f"logs/{stacks.name}", stacks.read_bytes())
    log.ship()


def keep_evidence(trial: Storage, rank: int, error: BaseException) -> None:
    """Keep what an exception of the workload holds of how it came about, for a person to look at."""
    failure, evidence = getattr(error, "failure", None), getattr(error, "evidence", None)
    if not isinstance(evidence, Mapping) or not isinstance(failure, str):
        return
    name = f"{failure}.json" if rank == 0 else f"{failure}-rank{rank}.json"
    try:
        trial.write_json(f"evidence/{name}", dict(evidence))
    except (StorageError, TypeError, ValueError) as problem:
        logging.getLogger(__name__).warning("evidence not kept: %s", problem)
