"""A Ray cluster of two nodes on one machine, as child processes that can be killed like machines."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from jobs._family import descendants, end
from jobs._relay import free_port

READY = """
import sys, time, logging, ray
while not ray.is_initialized():
    try:
        ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError):
        time.sleep(1)
while ray.cluster_resources().get("CPU", 0) < float(sys.argv[2]):
    time.sleep(0.2)
"""

CENSUS = """
import json, sys, logging, ray
from ray.util.placement_group import placement_group_table
from ray.util.state import list_actors
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
nodes = {node["NodeID"]: node for node in ray.nodes()}
head = [name for name, node in nodes.items() if "node:__internal_head__" in node["Resources"]]
print(json.dumps({
    "head": head[0],
    "nodes": [name for name, node in nodes.items() if node["Alive"]],
    "actors": [[one.class_name, one.node_id] for one in list_actors(limit=1000) if one.state == "ALIVE"],
    "groups": [group["state"] for group in placement_group_table().values()],
}))
"""


def token() -> dict[str, str]:
    """The environment of whatever belongs to a cluster of its own."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class Node:
    """One machine of the cluster: a `ray start --block` with all that it starts."""

    def __init__(self, options: Mapping[str, object], environment: Mapping[str, str], log: Path) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        words = [name if value is True else f"{name}={value}" for name, value in options.items()]
        command = [ray, "start", "--block", "--disable-usage-stats", *(f"--{word}" for word in words)]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to everything on it, workers included, as when the power goes."""
        family = [psutil.Process(self.pid), *descendants(self.pid)] if self.process.poll() is None else []
        for process in family:
            process.suspend()  # nobody sees a part of the machine die, and nothing new is started meanwhile
        end({*family, *(descendants(self.pid) if family else [])})
        self.process.wait()

    def stop(self) -> None:
        """End it in good order."""
        if self.process.poll() is None:
            family = descendants(self.pid)
            self.process.send_signal(signal.SIGTERM)
            psutil.wait_procs(family, timeout=15)
            end(family)
        self.process.wait()


class Cluster:
    """A head and a second node; a context manager that starts nothing by itself."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {**environment, "HOME": str(folder)}
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._temporary: list[str] = []
        self.nodes: list[Node] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.stop()
        for temporary in self._temporary:
            shutil.rmtree(temporary, ignore_errors=True)

    def start_head(self, *, cores: int = 1, budget: bool = True) -> Node:
        """Start the head, which holds the budget of gangs."""
        # Ray makes sockets below its folder, whose path must be short.
        self._temporary.append(tempfile.mkdtemp(prefix="hrc", dir="/tmp"))
        dashboard = free_port()
        return self._start(
            {
                "head": True, "port": self.port, "temp-dir": self._temporary[-1], "include-dashboard": "true",
                "dashboard-port": dashboard, "dashboard-host": "127.0.0.1", "ray-client-server-port": free_port(),
                "resources": json.dumps({"hrgrid_slots": 2} if budget else {}), "num-cpus": cores,
            }
        )  # fmt: skip

    def start_node(self, *, cores: int = 1) -> Node:
        """Start another node."""
        return self._start({"address": self.address, "num-cpus": cores})

    def wait_until_ready(self, *, cores: int = 2) -> None:
        """Wait until the head and all cores are there."""
        command = [sys.executable, "-c", READY, self.address, str(cores)]
        subprocess.run(command, env=self.environment, check=True, timeout=240, stdout=subprocess.DEVNULL)

    def census(self) -> dict[str, Any]:
        """The node that is the head, the nodes and actors (class, node) that live, states of all placement groups."""
        command = [sys.executable, "-c", CENSUS, self.address]
        # Ray's list of actors asks its API server, which it finds by the environment alone.
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        found = subprocess.run(command, env=environment, check=True, timeout=240, stdout=subprocess.PIPE)
        document: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return document

    def drain(self, node: str, seconds: float) -> None:
        """Tell Ray, by its own command, that a node will be taken away in so many seconds."""
        ray = str(Path(sys.executable).with_name("ray"))
        options = {
            "address": self.address, "node-id": node, "reason": "DRAIN_NODE_REASON_PREEMPTION",
            "reason-message": "spot", "deadline-remaining-seconds": f"{seconds:.0f}",
        }  # fmt: skip
        command = [ray, "drain-node", *(word for name, value in options.items() for word in (f"--{name}", value))]
        subprocess.run(command, env=self.environment, check=True, timeout=240, stdout=subprocess.DEVNULL)

    def _start(self, options: Mapping[str, object]) -> Node:
        common = {
            "node-ip-address": "127.0.0.1", "object-store-memory": 100_000_000,
            "dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port(),
            "min-worker-port": 0, "max-worker-port": 0,
        }  # fmt: skip
        self.nodes.append(Node({**options, **common}, self.environment, self.folder / "cluster.log"))
        return self.nodes[-1]
