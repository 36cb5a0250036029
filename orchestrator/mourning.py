"""How often the driver of a trial may die: as its gang may, see `orchestrator.deaths`, but not at once each time."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.deaths import DeathBook
from orchestrator.errors import StorageError
from orchestrator.failures import first_line
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage

__all__ = ["mourner"]

UNBEGUN: Final = 5
"""Drivers of one trial that may die in a row before they have taken its lease: most often, they cannot be imported."""

_log = logging.getLogger(__name__)


def mourner(trials: Sequence[tuple[str, str]], storage: str, owner: str, max_failures: int) -> Any:
    """Return the callback that ends a trial of Tune whose drivers cannot end it themselves.

    Tune restarts drivers for ever, as a training of weeks may lose several, and each counts the deaths of those before
    it. One that dies before it comes to that is counted here. `trials`: key and cell of each, by its
    index in Tune.
    """
    from ray import tune

    mourned = tuple(trials)

    class Mourner(tune.Callback):
        """Called in the launching process."""

        def __init__(self) -> None:
            self._unbegun: dict[str, int] = {}

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            key, cell = mourned[trial.config["index"]]
            _log.warning("%s: the driver of its trial ended (%s); another one goes on", cell, _why(trial))
            if self._is_hopeless(key):
                trial.max_failures = 0  # its next death is its last

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            from orchestrator.places import free_places

            free_places(mourned[trial.config["index"]][0])  # nobody else is left to do so

        def _is_hopeless(self, key: str) -> bool:
            try:
                if (Ledger(Storage(storage)).progress(key) or {}).get("owner") == owner:
                    return DeathBook(Storage(storage), key, owner).known().row > max_failures + 1
            except StorageError as error:
                _log.warning("trial %s: a driver died: %s", key, error)
            self._unbegun[key] = self._unbegun.get(key, 0) + 1
            return self._unbegun[key] >= UNBEGUN

    return Mourner()


def _why(trial: Any) -> str:
    """What ended a driver, in one line: Ray's own traceback of forty is told to nobody."""
    try:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # it is for people only
        return "no reason given"
    return first_line(getattr(error, "cause", None) or error)
