"""The processes of a launch that runs as a child of this one, found by descent and never by name over the machine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import psutil

__all__ = ["ROLES", "Victim", "descendants", "end", "victims"]

ROLES: Final[Mapping[str, Callable[[str], bool]]] = {
    "worker": lambda title: title.startswith("ray::RayTrainWorker"),
    "driver": lambda title: title.startswith("ray::ImplicitFunc"),
    "gcs": lambda title: title.split(" ")[0].endswith("/gcs_server"),
    "raylet": lambda title: title.split(" ")[0].endswith("/raylet"),
}
"""What a process is to a launch, by its title: a worker of a gang, the driver of a trial, Ray's own servers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """A process that can be killed as what it is to the launch."""

    role: str
    process: psutil.Process

    def kill(self) -> None:
        """Send SIGKILL; one that has ended by itself is no error."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes that descend from `pid`, oldest first; empty when it has ended."""
    try:
        return sorted(psutil.Process(pid).children(recursive=True), key=lambda child: (child.create_time(), child.pid))
    except psutil.NoSuchProcess:
        return []


def victims(pid: int, role: str | None = None) -> list[Victim]:
    """Return the descendants of a launch that play a role (None: any of `ROLES`), oldest first.

    Raises:
        KeyError: there is no such role.
    """
    asked = ROLES if role is None else {role: ROLES[role]}
    found = []
    for process in descendants(pid):
        title = _title(process)
        found += [Victim(role=name, process=process) for name, plays in asked.items() if plays(title)]
    return found


def end(processes: Iterable[psutil.Process], timeout: float = 10.0) -> None:
    """Kill processes and wait until they are gone. psutil never kills another process that has got the same id."""
    known = list(processes)
    for process in known:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process for process in known if process.pid != os.getpid()], timeout=timeout)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
