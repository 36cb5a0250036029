"""Who holds a lease: one process of one machine, told apart from every other one that ever had its number."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path
from typing import Final

import psutil

__all__ = ["is_alive", "process_identity"]

_CREATED_SECONDS: Final = 60.0
"""A process's start moves with the machine's clock when that is set; a number is not used again within this time."""


def process_identity() -> str:
    """Host, process id, start time (epoch seconds) and place of this process: what a lease names as its owner."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}:{_place()}"


def is_alive(owner: str) -> bool:
    """Tell whether a lease's owner lives; one whose processes cannot be seen from here is taken to."""
    host, pid, created, place = (*owner.split(":"), "", "", "", "")[:4]
    if host != socket.gethostname() or place not in ("", _place()) or not pid.isdigit() or not created.isdigit():
        return True
    try:
        process = psutil.Process(int(pid))
        same = abs(float(process.create_time()) - float(created)) < _CREATED_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _place() -> str:
    """Tell this run of this machine, and this container, from others that have the same host name."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]
