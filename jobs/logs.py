"""`hrgrid logs`: the output of a job, to its end if wished."""

from __future__ import annotations

import argparse
import sys

from jobs._command import main_of
from jobs._options import add_dashboard

HELP = "Print the output of a job. With -f to its end, and end with its exit code."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which job of which cluster."""
    parser.add_argument("job", metavar="JOB", help="name of the job (see hrgrid jobs)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    add_dashboard(parser)


def run(args: argparse.Namespace) -> int:
    """Print the output."""
    return show(args.job, args.address, follow=args.follow)


def show(name: str, address: str | None, *, follow: bool) -> int:
    """Print a job's output; returns its exit code when it was followed to its end, else 0."""
    from orchestrator import cluster

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def tell(sentence: str) -> None:
        print(f"hrgrid: {sentence}", file=sys.stderr, flush=True)

    try:
        job = cluster.logs(name, write=write, tell=tell, address=address, follow=follow)
    except KeyboardInterrupt:
        where = f" --address {address}" if address else ""
        tell(f"job {name} goes on; follow it again: hrgrid logs {name} -f{where}   stop it: hrgrid stop {name}{where}")
        raise
    # Of a failed job Ray's message goes on with the end of the log, which stands above.
    reason = job.message.strip().split("\n", 1)[0].split(", last available logs")[0]
    tell(f"job {name} {job.status}{': ' if reason else ''}{reason}")
    return job.code if follow else 0


if __name__ == "__main__":
    sys.exit(main_of("logs", HELP, add_arguments, run))
