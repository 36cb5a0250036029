"""The job commands in a process of their own, since Ray reads its token settings when it is imported."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from jobs._relay import Relay
from orchestrator import cluster
from orchestrator.provenance import Source

ROOT = Path(__file__).resolve().parents[2]
PATCH = "--- a/x.py\n+++ b/x.py\n"
OUTAGE = 4.0
"""Seconds without the dashboard."""
CUT_AT = 900
"""Characters of the log after which it goes away; its first lines are Ray's."""


def main(command: str, *arguments: str) -> object:
    match command:
        case "submit":
            name, python_path, *entrypoint = arguments
            source = Source(facts={"git_commit": "0123abc", "git_dirty": True}, patch=PATCH)
            sent = cluster.submit(entrypoint, root=ROOT, env={"PYTHONPATH": python_path}, name=name, source=source)
            return dataclasses.asdict(sent)
        case "greedy":
            with cluster._client(None) as (client, _):
                return client.submit_job(entrypoint="sleep 100", submission_id=arguments[0], entrypoint_num_cpus=64)
        case "demand":
            with cluster._client(None) as (client, _):
                status = client._do_request("GET", "/api/cluster_status").json()["data"]["clusterStatus"]
                return status["loadMetricsReport"]["resourceDemand"]
        case "jobs":
            return [dataclasses.asdict(job) for job in cluster.jobs()]
        case "hosts":
            return cluster.hosts()
        case "logs":
            return followed(arguments[0], None)
        case "cut":
            return cut(arguments[0])
        case _:
            return dataclasses.asdict(cluster.stop(arguments[0], python=sys.executable))


def followed(
    name: str, address: str | None, seen: Callable[[int], object] = lambda characters: None
) -> dict[str, object]:
    pieces: list[str] = []
    told: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        seen(len("".join(pieces)))

    job = cluster.logs(name, write=write, tell=told.append, address=address, follow=True)
    return {"text": "".join(pieces), "pieces": len(pieces), "told": told, "status": job.status, "code": job.code}


def cut(name: str) -> dict[str, object]:
    """Follow a job while the dashboard is away for some seconds, twice: after the first lines, and later."""
    there = urlsplit(os.environ["RAY_API_SERVER_ADDRESS"])
    outages = [CUT_AT, 2 * CUT_AT]
    with Relay(str(there.hostname), int(there.port or 0)) as relay:

        def seen(characters: int) -> None:
            if outages and characters > outages[0]:
                outages.pop(0)
                relay.down()
                threading.Timer(OUTAGE, relay.up).start()

        found = followed(name, f"http://127.0.0.1:{relay.port}", seen)
    return {**found, "outages": 2 - len(outages)}


if __name__ == "__main__":
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except ValueError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
