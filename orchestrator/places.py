"""The places that gangs hold in a Ray cluster, known by name, so that a killed driver leaves none behind.

Ray Train reserves a gang's place as a placement group without a name. Ray frees it when the launch ends, but not when
the trial's driver is killed: the next driver of the trial would wait for ever for what its own predecessor keeps. So
places carry the trial's key, and every driver first frees those of its trial.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle

__all__ = ["PLACE_SECONDS", "Place", "a_gang_waits", "free_places", "named_group", "reserve"]

PLACE_SECONDS: Final = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Environment variable: how long Ray Train waits for the place of a gang before it tells; its default is 60 s."""

_PREFIX: Final = "hrgrid-"
_MORE: Final = "more"
_WAITING: Final = ("PENDING", "PREPARED", "RESCHEDULING")

_log = logging.getLogger(__name__)


def named_group(key: str, seconds: float) -> type[WorkerGroup]:
    """Return Ray Train's group of workers with a place whose name has the trial's key, waited for up to `seconds`."""

    class NamedGroup(WorkerGroup):
        """Its place has a name; nothing else is changed."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._worker_group_start_timeout_s = seconds

        def _create_placement_group(self, scaling_config: Any, context: Any) -> DefaultPlacementGroupHandle:
            from ray.util.placement_group import placement_group

            bundles = [context.resources_per_worker] * context.num_workers
            name = f"{_prefix(key)}{time.time_ns():x}"
            return DefaultPlacementGroupHandle(placement_group(bundles, context.placement_strategy, name=name))

    return NamedGroup


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
