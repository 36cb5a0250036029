"""A Ray cluster of several nodes on this machine: each node a process with an environment of its own."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.integration import children
from tests.orchestrator.mlflow_store import free_port

RAY = str(Path(sys.executable).with_name("ray"))


class Nodes:
    """A head, and nodes that join it; a token of its own. Everything ends with `end`."""

    def __init__(
        self,
        folder: Path,
        *,
        resources: Mapping[str, float],
        cpus: int = 1,
        token: bool = True,
        dashboard: bool = False,
        ip: str = "127.0.0.1",
        before: Sequence[str] = (),
    ) -> None:
        """`before`: the words before a command that make it run on the head's host."""
        self.folder = folder
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = children.environment(
            folder / "home", **(mode if token else {"RAY_AUTH_MODE": "disabled"}), RAY_worker_niceness="0"
        )
        # Ray makes sockets below its folder, whose path must be short.
        self.temporary = tempfile.mkdtemp(prefix="hr", dir="/tmp")
        self.port = free_port()
        self.address = f"{ip}:{self.port}"
        self._before = tuple(before)
        self._processes: list[subprocess.Popen[bytes]] = []
        head = {"port": self.port, "temp-dir": self.temporary, "ray-client-server-port": free_port()}
        head |= {"include-dashboard": json.dumps(dashboard), "dashboard-port": free_port()}
        self._start("--head", self.environment, resources, cpus, {**head, "node-ip-address": ip}, before)
        self._wait(1)

    def join(
        self,
        *,
        cpus: int = 1,
        resources: Mapping[str, float] | None = None,
        ip: str = "127.0.0.1",
        before: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """Start a node whose workers have `environment`, too; `before` as for the head."""
        own = {"address": self.address, "node-ip-address": ip}
        self._start("", {**self.environment, **environment}, resources or {}, cpus, own, before)
        self._wait(len(self._processes))

    def _start(
        self,
        head: str,
        environment: dict[str, str],
        resources: Mapping[str, float],
        cpus: int,
        options: Mapping[str, object],
        before: Sequence[str],
    ) -> None:
        shared = {
            "num-cpus": cpus, "resources": json.dumps(resources), "object-store-memory": 80_000_000,
            "dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port(),
        }  # fmt: skip
        command = [*before, RAY, "start", *filter(None, [head]), "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in {**shared, **options}.items()]
        with (self.folder / f"node-{len(self._processes)}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    def _wait(self, number: int) -> None:
        """Wait until as many nodes are alive."""
        code = f"from ray._raylet import GcsClient as G; print(len(G('{self.address}').get_all_node_info()))"
        end = time.monotonic() + 120
        while time.monotonic() < end:
            done = subprocess.run(
                [*self._before, sys.executable, "-c", code],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if done.stdout.strip() == str(number):
                return
            time.sleep(0.5)
        logs = "".join(file.read_text()[-1500:] for file in sorted(self.folder.glob("node-*.log")))
        self.end()
        raise RuntimeError(f"{number} nodes did not come up: {done.stderr[-500:]}\n{logs}")

    def doctor(
        self, *arguments: str, address: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `hrgrid doctor` against it."""
        command = [*self._before, sys.executable, "-m", "jobs.cli", "doctor", "--address", address or self.address]
        own = {**self.environment, "PYTHONPATH": str(children.ROOT), **environment}
        return subprocess.run(
            [*command, *arguments], cwd=self.folder, env=own, capture_output=True, text=True, timeout=300, check=False
        )

    def end(self) -> None:
        """Kill all nodes."""
        for process in self._processes:
            children.end(process)
            process.wait(20)
        shutil.rmtree(self.temporary, ignore_errors=True)
