"""A site of four machines: a Ray head with MLflow, a second Ray node, an S3 API, and whoever submits."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

from orchestrator.raystart import SLOTS
from tests.integration.children import ROOT
from tests.integration.hosts.machine import Machine, Switch, environment_of

__all__ = ["HEALTH", "Site", "open_site"]

ADDRESSES: Final = {"head": "10.77.0.1", "second": "10.77.0.2", "store": "10.77.0.3", "operator": "10.77.0.4"}
RAY, DASHBOARD, MLFLOW, S3 = 6379, 8265, 5000, 9000
BUCKET: Final = "grid"
HEALTH: Final = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}
"""How the head finds that a node is lost; Ray's own values (3 s, 10 s, 5 times) let a minute pass, not seconds."""
BOOT_SECONDS: Final = 240.0

# What a supervisor such as systemd does: the node is started again whenever it has ended.
_SUPERVISED: Final = "while :; do {command}; echo 'ray ended; it is started again'; sleep 2; done"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The machines, and how their services are reached from any of them."""

    head: Machine
    second: Machine
    store: Machine
    operator: Machine
    environment: Mapping[str, str]
    """On every machine: credentials of the S3 API, and the token of the Ray cluster."""

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:{DASHBOARD}"

    @property
    def tracking(self) -> str:
        """By the name that all machines know, not by an address."""
        return f"http://tracking:{MLFLOW}"

    @property
    def tracking_by_address(self) -> str:
        """For who has only the network of a machine, and not its names."""
        return f"http://{self.head.address}:{MLFLOW}"

    @property
    def bucket(self) -> str:
        return f"s3://{BUCKET}"

    def command(self, *words: str) -> list[str]:
        """An hrgrid command as it is typed on the operator's machine, in a checkout."""
        return self.operator.inside("env", f"PYTHONPATH={ROOT}", "python", "-m", "jobs.cli", *words)

    def run(self, *words: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run an hrgrid command on the operator's machine."""
        return subprocess.run(
            self.command(*words), env=dict(self.environment), capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """Make the machines and start their services; this process is on the operator's network from then on.

    What the machines write is below `folder`, each in a folder of its own. All of them end with the `with`.
    """
    with ExitStack() as opened:
        switch = Switch()
        opened.callback(switch.end)
        known = {**ADDRESSES, "tracking": ADDRESSES["head"]}
        machines = {}
        for name, address in ADDRESSES.items():
            machines[name] = Machine(name, address, folder / name, known)
            opened.callback(machines[name].end)
            switch.plug(machines[name])
        shared = {
            "AWS_ENDPOINT_URL": f"http://{ADDRESSES['store']}:{S3}", "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://{ADDRESSES['head']}:{DASHBOARD}",
        }  # fmt: skip
        site = Site(**machines, environment=environment_of(**shared))
        site.operator.lend_network()
        opened.enter_context(mock.patch.dict(os.environ, shared))
        _start_services(site)
        yield site


def _start_services(site: Site) -> None:
    environment = dict(site.environment)
    ours = {**environment, "PYTHONPATH": str(ROOT)}
    s3 = ["python", "-m", "tests.integration.hosts.storehouse", site.store.address, str(S3)]
    site.store.start("s3", s3, ours)
    head = ["--head", f"--port={RAY}", f"--dashboard-port={DASHBOARD}", f"--dashboard-host={site.head.address}",
            "--include-dashboard=true", f"--resources={json.dumps({SLOTS: 2})}"]  # fmt: skip
    _start_ray(site.head, environment, *head)
    _start_ray(site.second, environment, f"--address={site.head.address}:{RAY}")
    _wait_for(site.store.address, S3)
    import boto3

    boto3.client("s3").create_bucket(Bucket=BUCKET)
    serve = ["python", "-m", "jobs.cli", "serve", "--folder", "/tmp/mlflow", "--artifacts", f"s3://{BUCKET}/artifacts",
             "--host", site.head.address, "--port", str(MLFLOW), "--workers", "1", "--allowed-hosts",
             "tracking"]  # fmt: skip
    site.head.start("mlflow", serve, ours)
    for port in (MLFLOW, DASHBOARD):
        _wait_for(site.head.address, port)


def _start_ray(machine: Machine, environment: Mapping[str, str], *options: str) -> None:
    """Start a Ray node of one core, under a supervisor."""
    command = [
        "ray", "start", "--block", "--disable-usage-stats", f"--node-ip-address={machine.address}", "--num-cpus=1",
        "--object-store-memory=100000000", "--temp-dir=/tmp/ray", *options,
    ]  # fmt: skip
    script = _SUPERVISED.format(command=shlex.join(command))
    machine.start("ray", ["sh", "-c", script], {**environment, **HEALTH})


def _wait_for(address: str, port: int) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((address, port), timeout=2).close()
            return
        time.sleep(0.2)
    raise TimeoutError(f"nobody listens at {address}:{port} after {BOOT_SECONDS:.0f} s")
