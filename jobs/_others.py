"""Cells of this launch that another launch trains: who, whether it still lives, and when they may be taken over."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from jobs._show import plural
from orchestrator.ledger import FRESH_SECONDS, Lease, Ledger
from orchestrator.settings import Settings
from orchestrator.storage import Storage

if TYPE_CHECKING:
    from jobs._planning import Draft
    from orchestrator.trainer import TrialOutcome

__all__ = ["abandoned", "only", "tell"]

QUIET_SECONDS: Final = FRESH_SECONDS / 2
"""A launch that lives renews its leases every 15 seconds; one that is silent for longer may be gone."""

LOOK_SECONDS: Final = 2.0


def abandoned(places: Settings, outcomes: Iterable[TrialOutcome]) -> list[str]:
    """Return the keys of cells that this launch left to another one, which has gone without finishing them.

    Waits only for launches that have just fallen silent, until they speak or count as gone: half a minute at most.
    """
    ledger = Ledger(Storage(places.storage))
    keys = [outcome.key for outcome in outcomes if outcome.state == "skipped"]
    states = dict(zip(keys, ledger.each(ledger.state, keys), strict=True))
    keys = [key for key, state in states.items() if state != "finished"]
    deadline = time.monotonic() + FRESH_SECONDS - QUIET_SECONDS + LOOK_SECONDS
    while True:
        leases = _held(ledger, keys)
        if time.monotonic() > deadline or not any(lease.age > QUIET_SECONDS for lease in leases.values()):
            break
        time.sleep(LOOK_SECONDS)
    return [key for key in keys if key not in leases and ledger.state(key) != "finished"]


def only(made: Draft, keys: Iterable[str]) -> Draft:
    """Return the part of a plan that is about some trials."""
    chosen = set(keys)
    trials = tuple(trial for trial in made.plan.trials if trial.key in chosen)
    return dataclasses.replace(made, plan=dataclasses.replace(made.plan, trials=trials))


def tell(places: Settings, outcomes: Iterable[TrialOutcome]) -> None:
    """Say which of the cells that are not finished are another launch's now, and whose."""
    left = {outcome.key: outcome.cell for outcome in outcomes}
    leases = _held(Ledger(Storage(places.storage)), list(left))
    if not leases:
        return
    print(f"\nanother launch is training {plural(len(leases), 'cell')}; the same command shows later how that ended:")
    for key, lease in leases.items():
        print(f"  {left[key]}  by {lease.owner}, last sign of life {lease.age:.0f} s ago")


def _held(ledger: Ledger, keys: Iterable[str]) -> dict[str, Lease]:
    leases = {key: ledger.leases.last(key) for key in keys}
    return {key: lease for key, lease in leases.items() if lease is not None and lease.held}
