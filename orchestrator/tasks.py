"""Calls of plain functions as Ray tasks, spread over a cluster, in the manner of `concurrent.futures`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.errors import ClusterError, reason_of
from orchestrator.raystart import connect

__all__ = ["Task", "Tasks", "tasks"]

RETRIES: Final = 5
"""How often a call is made again after the process or the machine that ran it is gone."""

LOOK_SECONDS: Final = 120.0
"""What every machine gets to say whether it sees a file: a process for it starts first."""


@dataclass(frozen=True, slots=True)
class Task:
    """A call under way."""

    ref: Any

    def result(self) -> Any:
        """Wait for what the function returns, or raise what it raises; ClusterError if the cluster cannot run it."""
        import ray

        try:
            return ray.get(self.ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"a task was lost {RETRIES + 1} times, or the cluster is gone ({reason_of(error)}); run the command "
                "again, it goes on where it was"
            ) from error

    def cancel(self) -> None:
        """Let it be."""
        import ray

        ray.cancel(self.ref)


class Tasks:
    """The CPUs of the cluster that this process is connected to."""

    load = 1 << 24
    """Bytes of work worth a task, which costs milliseconds to send."""

    def __init__(self) -> None:
        import ray

        cluster: Any = ray
        self.at_once = max(1, int(cluster.cluster_resources().get("CPU", 1)))

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Task:
        """Call a function on one CPU of some machine, again if it is lost."""
        import ray

        remote = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(function)
        return Task(remote.remote(*args))

    def blind(self, path: str) -> Sequence[str]:
        """Return the addresses of the machines with CPUs that cannot read a local path, or do not say within time."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cluster: Any = ray
        look = ray.remote(num_cpus=0, max_retries=RETRIES)(_reads)
        nodes = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                path
            ): str(node["NodeManagerAddress"])
            for node in cluster.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        answered, _ = ray.wait(list(nodes), num_returns=len(nodes), timeout=LOOK_SECONDS)
        seeing = {ref for ref in answered if Task(ref).result()}
        return sorted({address for ref, address in nodes.items() if ref not in seeing})


def _reads(path: str) -> bool:
    return os.access(path, os.R_OK)


@contextmanager
def tasks(address: str | None) -> Iterator[Tasks]:
    """The cluster at an address (default: $RAY_ADDRESS) as workers; raises ClusterError if it cannot be reached."""
    import ray

    connect(address=address, slots=0, cpus=os.cpu_count() or 1)
    try:
        yield Tasks()
    finally:
        ray.shutdown()
