"""`hrgrid stop`: end a job in order; its trials are marked as stopped and a later launch continues them."""

from __future__ import annotations

import argparse
import sys

from jobs._command import main_of
from jobs._options import add_dashboard, positive

HELP = "Stop a job and wait until it has ended. A later launch continues its trials."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which job of which cluster."""
    parser.add_argument("job", metavar="JOB", help="name of the job (see hrgrid jobs)")
    parser.add_argument("--timeout", type=positive, default=150, metavar="SECONDS", help="default %(default)s")
    parser.add_argument("--python", default="python", metavar="PATH", help="Python of the cluster (default: python)")
    add_dashboard(parser)


def run(args: argparse.Namespace) -> int:
    """Stop the job."""
    from orchestrator import cluster

    before = cluster.job(args.job, address=args.address)
    if before.has_ended:
        print(f"{before.name} had ended already: {before.status}")
        return 0
    print(f"{before.name} is {before.status}; asking it to stop, which may take a minute for checkpoints", flush=True)
    job = cluster.stop(args.job, address=args.address, timeout=float(args.timeout), python=args.python)
    print(f"{job.name}: {job.status}{f' ({job.message})' if job.message else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main_of("stop", HELP, add_arguments, run))
