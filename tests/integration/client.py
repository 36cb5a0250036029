"""The job commands in a process of their own, since Ray reads its token settings when it is imported."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from orchestrator import cluster
from orchestrator.provenance import Source

ROOT = Path(__file__).resolve().parents[2]


def main(command: str, *arguments: str) -> object:
    match command:
        case "submit":
            name, python_path, *entrypoint = arguments
            env = {"PYTHONPATH": python_path}
            source = Source(facts={"git_commit": "0123abc"}, patch="--- a\n+++ b\n")
            sent = cluster.submit(entrypoint, root=ROOT, env=env, name=name, source=source)
            return dataclasses.asdict(sent)
        case "jobs":
            return [dataclasses.asdict(job) for job in cluster.jobs()]
        case "logs":
            pieces: list[str] = []
            job = cluster.logs(arguments[0], write=pieces.append, follow=True)
            return {"text": "".join(pieces), "pieces": len(pieces), "status": job.status, "code": job.code}
        case _:
            return dataclasses.asdict(cluster.stop(arguments[0]))


if __name__ == "__main__":
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except ValueError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
