"""kill -9 of everything that a two-worker cell needs, each in its middle: `python -m tests.integration.chaos.kills`.

Every row is a real HRNet training through the true launch command on an own MLflow server, and is compared with an
unbroken run. Names of rows as arguments run these alone; `--folder DIR` keeps logs, and the unbroken runs for later.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from jobs._drill_faults import Outage
from jobs._drill_stage import OwnServer
from jobs._family import descendants, end, victims
from jobs._relay import HOST, Relay, free_port
from tests.integration.chaos import cluster, showing
from tests.integration.chaos.theatre import LONG, SHORT, Act, Row, Theatre, perform

OUTAGE_SECONDS: Final = 60.0
GONE_SECONDS: Final = 180.0
"""What a launch that has lost its Ray gets to notice it."""
REPAIR_SECONDS: Final = 5.0
"""Until there is a machine in place of one that is lost."""


def worker(theatre: Theatre, row: Row, rank: int) -> Row:
    def act(act: Act) -> None:
        act.strike(lambda: act.cell.worker(rank).kill())
        act.see_through()

    return perform(theatre, row, theatre.cell(row.fault, SHORT), act)


def driver(theatre: Theatre, row: Row) -> Row:
    def act(act: Act) -> None:
        act.strike(lambda: act.cell.victim("driver").kill())
        act.see_through()

    return perform(theatre, row, theatre.cell(row.fault, SHORT), act)


def launcher(theatre: Theatre, row: Row) -> Row:
    def act(act: Act) -> None:
        act.strike(act.cell.kill_launch)
        act.reconcile()
        act.again()
        act.see_through()

    return perform(theatre, row, theatre.cell(row.fault, SHORT), act)


def ray_server(theatre: Theatre, row: Row, *roles: str) -> Row:
    """One or both of the servers of a launch's local Ray."""

    def act(act: Act) -> None:
        def kill() -> None:
            for victim in [victim for role in roles for victim in victims(act.cell.pid, role)]:
                victim.kill()

        act.strike(kill)
        act.wait_until_gone(GONE_SECONDS)
        act.reconcile()
        act.again()
        act.see_through()

    return perform(theatre, row, theatre.cell(row.fault, SHORT), act)


def on_cluster(theatre: Theatre, row: Row, play: Callable[[Act, cluster.Cluster], None]) -> Row:
    """Play with the cell on a cluster of two nodes."""
    environment = cluster.token()
    cell = theatre.cell(row.fault, SHORT, environment=environment)
    with cluster.Cluster(theatre.folder / f"{row.fault}-cluster", cell.environment) as nodes:
        cell.give("--address", nodes.address)
        nodes.start_head()
        time.sleep(REPAIR_SECONDS)
        nodes.start_node()
        nodes.wait_until_ready()
        return perform(theatre, row, cell, lambda act: play(act, nodes))


def node(theatre: Theatre, row: Row) -> Row:
    def play(act: Act, nodes: cluster.Cluster) -> None:
        act.strike(nodes.nodes[1].kill)
        time.sleep(REPAIR_SECONDS)
        nodes.start_node()
        act.see_through()

    return on_cluster(theatre, row, play)


def cluster_head(theatre: Theatre, row: Row) -> Row:
    def play(act: Act, nodes: cluster.Cluster) -> None:
        act.strike(nodes.nodes[0].kill)
        act.wait_until_gone(GONE_SECONDS)
        nodes.nodes[1].kill()
        act.reconcile()
        nodes.start_head()
        time.sleep(REPAIR_SECONDS)
        nodes.start_node()
        nodes.wait_until_ready()
        act.again()
        act.see_through()

    return on_cluster(theatre, row, play)


def away(act: Act, outage: Outage) -> None:
    """Take something away for a minute while the cell is trained."""
    act.strike(outage.down)
    began = time.monotonic()
    while time.monotonic() - began < OUTAGE_SECONDS:
        act.cell.remember()
        if act.cell.ended() is not None:
            act.row.notes.append(f"the launch ended during the outage, {time.monotonic() - began:.0f} s into it")
            break
        time.sleep(0.2)
    time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - began)))
    act.row.notes.append(f"{act.cell.step() - act.row.step} steps trained meanwhile")
    outage.up()
    if act.cell.ended():
        act.again()
    act.see_through(kill=False)


def mlflow(theatre: Theatre, row: Row) -> Row:
    cell = theatre.cell(row.fault, LONG)
    return perform(theatre, row, cell, lambda act: away(act, OwnServer(theatre.server)))


def s3(theatre: Theatre, row: Row) -> Row:
    with s3_api(theatre.folder) as port, Relay(HOST, port) as relay:
        direct = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with mock.patch.dict(os.environ, direct):
            import boto3

            boto3.client("s3").create_bucket(Bucket="grid")
            relayed = {"AWS_ENDPOINT_URL": f"http://{HOST}:{relay.port}"}
            storage = f"s3://grid/{row.fault}-{time.time():.0f}"
            cell = theatre.cell(row.fault, LONG, storage=storage, environment=relayed)
            return perform(theatre, row, cell, lambda act: away(act, relay))


@contextmanager
def s3_api(folder: Path) -> Iterator[int]:
    """An S3 API whose data is in the memory of a child process; yields its port."""
    port = free_port()
    with (folder / "s3.log").open("ab") as log:
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection((HOST, port), timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        end(descendants(process.pid))
        process.kill()
        process.wait()


ROWS: Final[dict[str, Callable[[Theatre, Row], Row]]] = {
    "worker-1": lambda theatre, row: worker(theatre, row, 1),
    "worker-0": lambda theatre, row: worker(theatre, row, 0),
    "driver": driver,
    "launcher": launcher,
    "local-head": lambda theatre, row: ray_server(theatre, row, "gcs", "raylet"),
    "local-gcs": lambda theatre, row: ray_server(theatre, row, "gcs"),
    "local-raylet": lambda theatre, row: ray_server(theatre, row, "raylet"),
    "node": node,
    "cluster-head": cluster_head,
    "mlflow-60s": mlflow,
    "s3-60s": s3,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which of: {', '.join(ROWS)} (default: all)")
    showing.add_output(parser)
    args = parser.parse_args()
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    began, rows = time.monotonic(), []
    with showing.workplace(args.folder) as folder, Theatre(folder) as theatre:
        for name in args.rows or ROWS:
            said = time.monotonic()
            rows.append(ROWS[name](theatre, Row(fault=name)))
            print(f"{name}: {'right' if rows[-1].right else 'WRONG'} ({time.monotonic() - said:.0f} s)", flush=True)
            # At once, so that a matrix that is cut short keeps what it has measured.
            showing.show([_facts(rows[-1])])
            showing.write(args.json, {"rows": [row.figures() for row in rows]})
    print()
    showing.show([_facts(row) for row in rows])
    for row in rows:
        for note in row.notes:
            print(f"{row.fault}: {note}")
    right = sum(row.right for row in rows)
    print(f"\n{right} of {len(rows)} rows right, {time.monotonic() - began:.0f} s")
    showing.write(args.json, {"rows": [row.figures() for row in rows], "seconds": round(time.monotonic() - began, 1)})
    return 0 if right == len(rows) else 1


def _facts(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.figures().items() if name != "notes"}


if __name__ == "__main__":
    sys.exit(main())
