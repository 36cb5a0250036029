"""How Ray Tune comes to follow the plan: it asks for its next trial here, and the dispatch policy decides.

Tune calls a searcher's `suggest` in every turn of its loop; an answer of None means "not now", and it asks again a
tenth of a second later. So a trial comes into being when its gang may start, in the order of the simulation, and the
budget resource on the head is only a safety net. A trial that Tune retries keeps its slots: `on_trial_complete` comes
when it has ended for good.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator.dispatch import Dispatch

if TYPE_CHECKING:
    from ray.tune.search import Searcher

__all__ = ["admission"]


def admission(policy: Dispatch) -> Searcher:
    """Return the searcher that makes Tune follow a policy; trials get their index as the configuration's `index`.

    Tune creates one trial per turn unless it is told otherwise: give as many as there are trials as
    `max_concurrent_trials`, and as `num_samples`.
    """
    from ray.tune.search import Searcher

    class Admission(Searcher):
        """Asks the policy; holds which trial of Tune is which gang."""

        def __init__(self) -> None:
            super().__init__()
            self._policy, self._began = policy, time.monotonic()
            self._gangs: dict[str, int] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            index = self._policy.start(time.monotonic() - self._began)
            if index is None:
                return None
            self._gangs[trial_id] = index
            return {"index": index}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            index = self._gangs.pop(trial_id, None)
            if index is not None:
                self._policy.end(index)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: a launch is never restored from Tune's state, but planned anew from the ledger."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, as nothing is saved."""

    return Admission()
