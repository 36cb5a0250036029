"""A Ray head as cluster.yaml starts it, as a child process: token, dashboard on loopback, ports of its own."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration import children
from tests.orchestrator.mlflow_store import free_port

__all__ = ["Head", "head"]

START_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A head that answers."""

    pid: int
    token: str
    dashboard: str
    """Address of dashboard and Jobs API."""
    gcs: str
    """Address that `ray.init` takes."""
    client: str
    """Address of the Ray client's server."""
    agent: str
    """Address of the HTTP port of the dashboard's agent."""
    temporary: Path
    """Ray's own folder: sessions with their logs."""
    environment: dict[str, str]
    """What a child needs to speak to it: home, token and addresses."""


@contextlib.contextmanager
def head(folder: Path, token: str | None = None, **more: str) -> Iterator[Head]:
    """Start a head, wait until it answers, and end it with everything it started.

    `token`: the cluster's (None: a new one); `more`: what else is in its environment.
    """
    ports = {name: free_port() for name in ("gcs", "dashboard", "agent", "agent-grpc", "client")}
    dashboard = f"http://127.0.0.1:{ports['dashboard']}"
    token = token or secrets.token_hex(32)
    environment = children.environment(folder / "home", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, **more)
    environment["RAY_API_SERVER_ADDRESS"] = dashboard
    # Ray makes sockets below its folder, whose path must be short.
    temporary = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    options = {
        "port": ports["gcs"], "dashboard-port": ports["dashboard"], "dashboard-host": "127.0.0.1",
        "dashboard-agent-listen-port": ports["agent"], "dashboard-agent-grpc-port": ports["agent-grpc"],
        "ray-client-server-port": ports["client"], "num-cpus": 2, "resources": json.dumps({"hrgrid_slots": 2}),
        "temp-dir": temporary, "include-dashboard": "true", "object-store-memory": 100_000_000,
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    request = urllib.request.Request(f"{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"})

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            return True
        if process.poll() is not None:
            raise AssertionError((folder / "head.log").read_text())
        return False

    try:
        children.wait_for(answers, START_SECONDS, "the head answers")
        yield Head(
            pid=process.pid, token=token, dashboard=dashboard, gcs=f"{_address()}:{ports['gcs']}",
            client=f"ray://127.0.0.1:{ports['client']}", agent=f"http://127.0.0.1:{ports['agent']}",
            temporary=temporary, environment=environment,
        )  # fmt: skip
    finally:
        children.end(process, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            children.end(process)
            process.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)


def _address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
