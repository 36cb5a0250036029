"""The machines that a doctor asks: this one, or every live node of a Ray cluster through an agent of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.doctor.members import LocalMembers, PlacedMembers, told
from orchestrator.doctor.model import Answer, Machine, Probe
from orchestrator.errors import reason_of
from orchestrator.workload import Json

__all__ = ["Cluster", "ThisMachine"]

_THREADS: Final = 32
"""Probes that a node runs at once; there are about a dozen checks."""

_HEAD: Final = "node:__internal_head__"


class ThisMachine:
    """This machine alone, without Ray."""

    def __init__(self) -> None:
        self.machines: Sequence[Machine] = (Machine(name=socket.gethostname()),)

    def ask(self, probe: Probe, seconds: float) -> list[Answer]:
        """Run a probe here."""
        heard: list[Mapping[str, Json]] = []
        thread = threading.Thread(target=lambda: heard.append(told(probe)), name="hrgrid-probe", daemon=True)
        thread.start()
        thread.join(seconds)
        return [_answer(self.machines[0], heard[0] if heard else None, seconds)]

    def gang(self, seconds: float) -> LocalMembers:
        """Start one process per GPU, or two."""
        from orchestrator.telemetry import installed_gpus

        gpus = len(installed_gpus()["names"])
        return LocalMembers(self.machines[0], gpus or 2, gpu=bool(gpus))

    def close(self) -> None:
        """Nothing is left."""


class Cluster:
    """The live nodes of the Ray cluster that this process is connected to."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from orchestrator import doctor

        self._ray: Any = ray
        # A node without hrgrid is to say so, which it can only if what asks it arrives whole.
        pickling: Any = ray.cloudpickle
        pickling.register_pickle_by_value(doctor)
        alive = sorted((node for node in self._ray.nodes() if node["Alive"]), key=lambda node: not _is_head(node))
        names = _names(alive)
        self.machines: Sequence[Machine] = tuple(
            Machine(
                name=name,
                address=node["NodeManagerAddress"],
                head=_is_head(node),
                resources=dict(node["Resources"]),
                labels=dict(node.get("Labels") or {}),
            )
            for node, name in zip(alive, names, strict=True)
        )
        self._ids = [node["NodeID"] for node in alive]
        agent = self._ray.remote(num_cpus=0, max_concurrency=_THREADS)(_Agent)
        self._agents = [
            agent.options(scheduling_strategy=NodeAffinitySchedulingStrategy(number, soft=False)).remote()
            for number in self._ids
        ]

    def ask(self, probe: Probe, seconds: float) -> list[Answer]:
        """Run a probe on every node at once."""
        asked = [agent.ask.remote(probe) for agent in self._agents]
        self._ray.wait(asked, num_returns=len(asked), timeout=seconds, fetch_local=False)
        return [self._read(node, ref, seconds) for node, ref in zip(self.machines, asked, strict=True)]

    def clocks(self, seconds: float) -> list[Answer]:
        """How far each node's clock is ahead of this process's, as `ahead`, and how well that is known, both in
        seconds: the shortest of a few round trips tells most."""
        best: dict[int, tuple[float, float]] = {}
        end = time.monotonic() + seconds
        for _ in range(4):
            for number, agent in enumerate(self._agents):
                before = time.time()
                try:
                    there = float(self._ray.get(agent.now.remote(), timeout=max(0.1, end - time.monotonic())))
                except Exception:
                    continue
                took = time.time() - before
                if number not in best or took / 2 < best[number][1]:
                    best[number] = (there - before - took / 2, took / 2)
        found = []
        for number, node in enumerate(self.machines):
            if number in best:
                ahead, known_to = best[number]
                found.append(Answer(node=node, facts={"ahead": ahead, "known_to": known_to}))
            else:
                found.append(Answer(node=node, error=_late(seconds)))
        return found

    def gang(self, seconds: float) -> PlacedMembers:
        """Reserve a place as Ray Train does and start the members in it."""
        by_id = dict(zip(self._ids, self.machines, strict=True))
        return PlacedMembers(by_id, seconds)

    def close(self) -> None:
        """End the agents."""
        for agent in self._agents:
            self._ray.kill(agent)
        self._agents = []

    def _read(self, node: Machine, ref: Any, seconds: float) -> Answer:
        try:
            return _answer(node, self._ray.get(ref, timeout=0.1), seconds)
        except self._ray.exceptions.GetTimeoutError:
            return _answer(node, None, seconds)
        except Exception as error:
            return Answer(node=node, error=f"Ray cannot run anything there ({reason_of(error)})")


class _Agent:
    """Lives on a node and runs probes there, in threads."""

    def ask(self, probe: Probe) -> Mapping[str, Json]:
        """The facts of a probe, or why there are none."""
        return told(probe)

    def now(self) -> float:
        """The node's clock."""
        return time.time()


def _answer(node: Machine, heard: Mapping[str, Json] | None, seconds: float) -> Answer:
    if heard is None:
        return Answer(node=node, error=_late(seconds))
    if "error" in heard:
        return Answer(node=node, error=f"the probe could not be carried out ({heard['error']})")
    return Answer(node=node, facts=heard["facts"])


def _late(seconds: float) -> str:
    return f"no answer in {seconds:.0f} s"


def _is_head(node: Mapping[str, Any]) -> bool:
    return _HEAD in node["Resources"]


def _names(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The shortest of host name, address, and address with a part of the id that belongs to one node alone."""
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    addresses = Counter(node["NodeManagerAddress"] for node in nodes)
    names = []
    for node in nodes:
        host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
        unique = address if addresses[address] == 1 else f"{address} ({node['NodeID'][:6]})"
        names.append(host if hosts[host] == 1 else unique)
    return names
