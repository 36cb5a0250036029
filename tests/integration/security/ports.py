"""The ports of a process and of everything that it started, with what each listens on."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psutil

__all__ = ["Port", "listening", "watch"]

_NAMES: Final = {"gcs_server": "Ray GCS", "raylet": "Ray raylet and object manager"}


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Port:
    """A TCP port that a process listens on."""

    process: str
    """What the process is called, without its number."""

    address: str
    """The address it is bound to."""

    port: int

    @property
    def beyond_loopback(self) -> bool:
        """Whether another machine can reach it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return not (mapped or address).is_loopback


def listening(pid: int) -> set[Port]:
    """The TCP ports that a process and its descendants listen on now."""
    found = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                name = _name(process)
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        address = connection.laddr
                        found.add(Port(process=name, address=address.ip, port=address.port))
    return found


def watch(pid: int, *, seconds: float, until: Callable[[set[Port]], bool] = lambda found: False) -> set[Port]:
    """All ports that were open at any of the looks, two in a second.

    Until the process ends, `until` is true of what was found, or time is over.
    """
    deadline, found = time.monotonic() + seconds, set[Port]()
    while time.monotonic() < deadline and not until(found):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                break
        except psutil.NoSuchProcess:
            break
        found |= listening(pid)
        time.sleep(0.5)
    return found


def _name(process: psutil.Process) -> str:
    """Python programs by their module or script, Ray's processes by their title."""
    words = process.cmdline()
    if not words:
        return process.name()
    if words[0].startswith("ray::"):
        return words[0].partition(".")[0]
    name = words[0].rpartition("/")[2]
    if name.startswith("python") and "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return _NAMES.get(name, name)
