"""Three hosts for the doctor: network namespaces with a Ray node each, of which two do not reach each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.integration import children
from tests.integration.clusters import Nodes
from tests.integration.doctor_servers import prepared

PORT = 8099
_SKEW = "import time\n_now = time.time\ntime.time = lambda: _now() + 90.0\n"


class SpotMetadata(BaseHTTPRequestHandler):
    """AWS's metadata service of a spot instance."""

    def do_PUT(self) -> None:
        self._say(b"token")

    def do_GET(self) -> None:
        self._say(b"spot")

    def _say(self, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)


def link(name: str, number: int) -> None:
    """Make a namespace that reaches the head's by a link of its own; addresses 10.88.NUMBER.1 (head) and .2."""
    head, here = f"{_prefix()}h", f"{_prefix()}{name}"
    for command in (
        f"ip netns add {here}",
        f"ip link add {_prefix()}{number} netns {head} type veth peer name eth0 netns {here}",
        f"ip -n {head} addr add 10.88.{number}.1/24 dev {_prefix()}{number}",
        f"ip -n {head} link set {_prefix()}{number} up",
        f"ip -n {here} addr add 10.88.{number}.2/24 dev eth0",
        f"ip -n {here} link set eth0 up",
        f"ip -n {here} link set lo up",
        f"ip -n {here} route add default via 10.88.{number}.1",
    ):
        subprocess.run(command.split(), check=True)


def _prefix() -> str:
    return f"d{os.getpid() % 10000}"


def hosts(folder: Path) -> Iterator[tuple[str, Sequence[str], Sequence[Mapping[str, object]]]]:
    """Start everything, let the doctor look, and yield (title, checks that must not be ok, findings)."""
    head = f"{_prefix()}h"
    within = ["ip", "netns", "exec", head]
    with ExitStack() as stack:
        for name in ("h", "a", "b"):
            stack.callback(subprocess.run, ["ip", "netns", "del", f"{_prefix()}{name}"], check=False)
        subprocess.run(["ip", "netns", "add", head], check=True)
        subprocess.run(["ip", "-n", head, "link", "set", "lo", "up"], check=True)
        # A router that forwards nothing, as a firewall between two hosts.
        subprocess.run([*within, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"], check=True)
        link("a", 1)
        link("b", 2)
        data, other = prepared(folder / "data"), folder / "other"
        shutil.copytree(data, other)
        manifest = json.loads((other / "manifest.json").read_text())
        (other / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))
        results = folder / "results"
        results.mkdir()
        site = folder / "site"
        (site / "mlflow-2.0.0.dist-info").mkdir(parents=True)
        (site / "mlflow-2.0.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: mlflow\nVersion: 2.0.0\n"
        )
        (site / "sitecustomize.py").write_text(_SKEW)
        nodes = Nodes(folder, resources={}, cpus=0, dashboard=True, before=within, ip="10.88.1.1", token=False)
        stack.callback(nodes.end)
        nodes.join(cpus=1, before=["ip", "netns", "exec", f"{_prefix()}a"], ip="10.88.1.2")
        mounts = f'mount --bind {other} {data} && mount -t tmpfs tmpfs {results} && exec "$@"'
        nodes.join(
            cpus=1, resources={"hrgrid_slots": 1}, ip="10.88.2.2",
            before=["ip", "netns", "exec", f"{_prefix()}b", "unshare", "-m", "bash", "-c", mounts, "--"],
            PYTHONPATH=f"{site}:{children.ROOT}", AWS_EC2_METADATA_DISABLED="false",
            AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{PORT}",
        )  # fmt: skip
        there = ["ip", "netns", "exec", f"{_prefix()}b", sys.executable, "-m", __name__]
        metadata = subprocess.Popen(there, cwd=children.ROOT, env=nodes.environment, stderr=subprocess.DEVNULL)
        stack.callback(metadata.kill)
        given = [
            "--json",
            "--storage",
            str(results),
            "--data",
            str(data),
            "--tracking",
            f"sqlite:///{results}/mlflow.db",
        ]
        done = nodes.doctor(*given)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        checks = (
            "versions",
            "token",
            "gang budget",
            "drivers' node",
            "clocks",
            "storage",
            "mlflow",
            "data",
            "collective",
        )
        title = (
            "three hosts: no tokens; on one another MLflow, a clock that is 90 s ahead, other "
            "data, another results folder, the gang budget, a spot machine; SQLite for all; no way between two of them"
        )
        yield title, checks, json.loads(done.stdout)["findings"]


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), SpotMetadata).serve_forever()
