"""The places that gangs hold in a Ray cluster, known by name, so that a killed driver leaves none behind.

Ray Train reserves a gang's place as a placement group without a name. Ray frees it when the launch ends, but not when
the trial's driver and the controller beside it are killed: the next driver of the trial would wait for ever for what
its own predecessor keeps. So places carry the trial's key, and every driver first frees those of its trial.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.worker_group import worker_group

__all__ = ["PLACE_SECONDS", "NamedPlaces", "Place", "a_gang_waits", "free_places", "reserve"]

PLACE_SECONDS: Final = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Environment variable: how long Ray Train waits for the place of a gang before it tells; its default is 60 s."""

_PREFIX: Final = "hrgrid-"
_MORE: Final = "more"
_WAITING: Final = ("PENDING", "PREPARED", "RESCHEDULING")

_log = logging.getLogger(__name__)


class NamedPlaces(ControllerCallback):
    """Runs in the controller of a gang: gives the placement groups that it makes a name with the trial's key."""

    def __init__(self, key: str, seconds: float) -> None:
        """`seconds`: how long each of them is waited for."""
        self._key, self._seconds = key, seconds

    def after_controller_start(self, train_run_context: Any) -> None:
        """Take the place of the function that Ray Train reserves with; the controller's process has no other gang."""
        os.environ[PLACE_SECONDS] = str(self._seconds)
        module: Any = worker_group
        reserve, key = module.placement_group, self._key

        def named(*args: Any, **options: Any) -> Any:
            return reserve(*args, **options, name=f"{_prefix(key)}{time.time_ns():x}")

        module.placement_group = named


def free_places(key: str) -> int:
    """Free every place that a gang of the trial still holds in this launch; returns their number.

    Only for who holds the trial's lease, while no gang of it runs. Without Ray's servers there is none.
    """
    from ray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group

    freed = 0
    try:
        table: dict[str, dict[str, Any]] = placement_group_table()
    except Exception as error:  # must not hide why the gang ended
        _log.warning("trial %s: its place was not looked for: %s", key, error)
        return 0
    for group in table.values():
        if group["name"].startswith(_prefix(key)) and group["state"] != "REMOVED":
            with contextlib.suppress(ValueError):  # gone meanwhile, or of another launch, whose end frees it
                remove_placement_group(get_placement_group(group["name"]))
                freed += 1
    if freed:
        _log.warning("trial %s: freed the place of %d gangs whose driver had died", key, freed)
    return freed


class Place:
    """Resources that were asked for beside those of a gang."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def is_there(self) -> bool:
        """Tell whether all of it is reserved now."""
        from ray.util.placement_group import placement_group_table

        return bool(placement_group_table(self._group).get("state") == "CREATED")

    def free(self) -> None:
        """Give it back, or ask for it no longer."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)


def reserve(key: str, bundles: Sequence[dict[str, float]]) -> Place:
    """Ask Ray for resources that a gang of the trial could have more; `free_places` frees them, too."""
    from ray.util.placement_group import placement_group

    return Place(placement_group(list(bundles), name=f"{_prefix(key)}{_MORE}-{time.time_ns():x}"))


def a_gang_waits() -> bool:
    """Tell whether any gang in the cluster, of whatever launch, has no place yet or has lost it."""
    from ray.util.placement_group import placement_group_table

    table: dict[str, dict[str, Any]] = placement_group_table()
    return any(
        group["state"] in _WAITING and group["name"].startswith(_PREFIX) and f"-{_MORE}-" not in group["name"]
        for group in table.values()
    )


def _prefix(key: str) -> str:
    return f"{_PREFIX}{key}-"
