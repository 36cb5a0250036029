"""`hrgrid jobs`: the jobs of a cluster."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

from jobs._command import main_of
from jobs._options import add_dashboard, add_json
from jobs._show import duration, print_table

HELP = "List the jobs of a cluster, oldest first."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cluster."""
    add_dashboard(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the jobs."""
    from orchestrator import cluster

    jobs = cluster.jobs(args.address)
    if args.json:
        print(json.dumps([{**dataclasses.asdict(job), "seconds": job.seconds} for job in jobs], indent=1))
        return 0
    rows = []
    for job in jobs:
        began = "-" if job.started is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        rows.append((job.name, job.status, began, duration(job.seconds), job.command))
    print_table(("job", "status", "started", "lasted", "command"), rows, right={"lasted"})
    return 0


if __name__ == "__main__":
    sys.exit(main_of("jobs", HELP, add_arguments, run))
