"""What can be seen of a site from outside: gangs and nodes as Ray tells them, steps as the workers' logs tell them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from jobs._drill_evidence import Mark, read_marks
from orchestrator.storage import Storage
from tests.integration.hosts.site import Site

__all__ = ["Gang", "Watcher", "marks_of", "wait_for"]

POLL_SECONDS: Final = 1.0
PATIENCE: Final = 900.0
"""What anything here may take on a busy machine; nothing that is measured depends on it."""


@dataclass(kw_only=True, slots=True)
class Gang:
    """The workers of one attempt, as Ray's state API has shown them."""

    trial: str
    """Key of the trial."""
    hosts: set[str] = field(default_factory=set)
    """Addresses of the nodes that its workers lived on."""
    seen: float = 0.0
    """Seconds since the epoch when a worker of it was last alive."""


class Watcher:
    """Asks the head, again and again, which gangs and nodes there are; a context manager."""

    def __init__(self, site: Site) -> None:
        self._dashboard = site.dashboard
        self._second = site.second.address
        self.gangs: dict[str, Gang] = {}
        self.alive: set[str] = set()
        """Ids of nodes on the second machine that are alive."""
        self.lost: dict[str, float] = {}
        """Id of a node of the second machine to when Ray first called it dead."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60.0)

    def gangs_of(self, trial: str) -> list[Gang]:
        """The gangs that a trial has had so far, by its key; one per attempt."""
        return [gang for gang in list(self.gangs.values()) if gang.trial == trial]

    def _work(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            # The head may be too busy for an answer; the next look is as good.
            with contextlib.suppress(Exception):
                self._look()

    def _look(self) -> None:
        from ray.util import state

        asked: Any = state  # its annotations allow for answers without the fields that are asked for
        nodes = {node.node_id: node for node in asked.list_nodes(self._dashboard)}
        second = {name for name, node in nodes.items() if node.node_ip == self._second}
        self.alive = {name for name in second if nodes[name].state == "ALIVE"}
        for name in second - self.alive:
            self.lost.setdefault(name, time.time())
        places = {place.placement_group_id: place.name for place in asked.list_placement_groups(self._dashboard)}
        workers = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
        for actor in asked.list_actors(self._dashboard, filters=workers, detail=True):
            trial = places.get(actor.placement_group_id, "").removeprefix("hrgrid-").partition("-")[0]
            if trial:
                gang = self.gangs.setdefault(actor.placement_group_id, Gang(trial=trial))
                gang.hosts.add(nodes[actor.node_id].node_ip)
                gang.seen = time.time()


def marks_of(site: Site, storage: Storage, key: str) -> list[Mark]:
    """Every training event of a trial, in order of time, from its log in storage and what is on the machines yet."""
    contents = [storage.find_bytes(f"trials/{key}/logs/rank0.jsonl") or b""]
    for machine in (site.head, site.second):
        for file in machine.temporary.glob("hrgrid-scratch-log-*/rank0.jsonl"):
            with contextlib.suppress(FileNotFoundError):  # a worker that ends takes its log away
                contents.append(file.read_bytes())
    name = f'"trial": "{key}"'.encode()
    return read_marks(content for content in contents if name in content)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> float:
    """Wait until a condition holds; returns how many seconds that took, raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.3)
    return time.monotonic() - began
