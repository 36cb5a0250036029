"""Machines of one's own on this one: each with its network, host name, processes, /tmp and shared memory.

A machine is a handful of Linux namespaces that its first process holds. They have no names, so nothing of two runs can
clash, and all of them end with that process, which ends with this one: there is nothing to tidy up, also after a
SIGKILL. Needs root, as in a container that may make namespaces.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

__all__ = ["Machine", "Switch", "can_make_machines", "environment_of"]

NETMASK: Final = 24
_BORN: Final = "born"

# `--kill-child` ends the inside with `unshare`, and `setpriv` ends that with the process that started it.
_HOLD: Final = ("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--fork", "--net")
_APART: Final = ("--uts", "--ipc", "--mount", "--pid", "--mount-proc")
# The first process of a machine must wait for orphans; `wait` does it for all.
_IDLE: Final = f"echo {_BORN}; while :; do sleep 3600 & wait; done"
_BOOT: Final = """
set -e
hostname "$1"
ip link set lo up
mount --bind "$2/hosts" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
mount --bind "$2/tmp" /tmp
"""


def can_make_machines() -> bool:
    """Tell whether this process may make namespaces and has the programs for it."""
    command = [*_HOLD, *_APART, "sh", "-c", "mount -t tmpfs tmpfs /dev/shm && ip link add br0 type bridge"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def environment_of(**more: str) -> dict[str, str]:
    """The environment on a machine: this one's interpreter and nothing of its user."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "HOME": "/tmp/home", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", **more}


class _Held:
    """A first process, and how others get to where it is."""

    def __init__(self, options: Sequence[str], script: str, *arguments: str) -> None:
        command = [*_HOLD, *options, "sh", "-c", script + _IDLE, "sh", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline().strip() != _BORN:
            self._process.kill()
            raise OSError(f"no machine could be made: {self._process.stderr.read().strip()}")
        (inside,) = psutil.Process(self._process.pid).children()
        self.pid: Final = inside.pid

    def end(self) -> None:
        """End it and every process on it, all at once, as when the power goes."""
        self._process.kill()
        self._process.wait()

    def inside(self, *command: str) -> list[str]:
        """The command that runs a command here."""
        return ["nsenter", "--target", str(self.pid), "--net", *command]

    def do(self, *command: str) -> str:
        """Run a command here; returns what it prints, raises OSError with what it complains of."""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout


class Switch(_Held):
    """What machines are plugged into; a machine of a network alone."""

    def __init__(self) -> None:
        super().__init__((), "set -e; ip link add br0 type bridge; ip link set br0 up\n")
        self._ports = 0

    def plug(self, machine: Machine) -> None:
        """Connect a machine, whose interface then is eth0."""
        self._ports += 1
        port = f"port{self._ports}"
        self.do("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        self.do("ip", "link", "set", port, "master", "br0", "up")
        machine.do("ip", "address", "add", f"{machine.address}/{NETMASK}", "dev", "eth0")
        machine.do("ip", "link", "set", "eth0", "up")


class Machine(_Held):
    """A machine: what it writes to /tmp, and its home there, is below its folder for whoever looks from outside."""

    def __init__(self, name: str, address: str, folder: Path, known: Mapping[str, str]) -> None:
        """`known`: names of other machines to their addresses. Its own name is loopback, as Debian installs it."""
        (folder / "tmp" / "home").mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        entries = {"localhost": "127.0.0.1", name: "127.0.0.1"} | {k: v for k, v in known.items() if k != name}
        (folder / "hosts").write_text("".join(f"{where} {who}\n" for who, where in entries.items()))
        self.name: Final = name
        self.address: Final = address
        self.folder: Final = folder
        super().__init__(_APART, _BOOT, name, str(folder))

    @property
    def temporary(self) -> Path:
        """Its /tmp, as seen from outside."""
        return self.folder / "tmp"

    def inside(self, *command: str) -> list[str]:
        """The command that runs a command here, in the home folder."""
        where = ("--net", "--uts", "--ipc", "--mount", "--pid")
        return ["nsenter", "--target", str(self.pid), *where, "env", "--chdir=/tmp/home", *command]

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[Any]:
        """Start a process that goes on; its output goes to `<name>.log` in the machine's folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.inside(*command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def lend_network(self) -> None:
        """Put this very process, and what it starts from now on, into the machine's network; before any thread."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{self.pid}/ns/net", "rb") as network:
            if libc.setns(network.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"the network of {self.name} cannot be entered")

    def cut_off(self) -> None:
        """Take its network away: packets vanish, and no connection is told."""
        self.do("ip", "link", "set", "eth0", "down")

    def bring_back(self) -> None:
        """Give its network back."""
        self.do("ip", "link", "set", "eth0", "up")

    def lose(self, other: Machine) -> None:
        """Let what this machine sends to another vanish: it goes to a card that nobody has."""
        self.do("ip", "neighbour", "replace", other.address, "lladdr", "02:00:00:00:00:fe", "dev", "eth0",
                "nud", "permanent")  # fmt: skip

    def find(self, other: Machine) -> None:
        """Undo `lose`."""
        self.do("ip", "neighbour", "delete", other.address, "dev", "eth0")
