"""`hrgrid report`: the leaderboard beside the published numbers, from the ledger alone."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from hrnet.errors import suggestion
from jobs._browse import mlflow_line
from jobs._command import main_of
from jobs._options import add_json, add_name, add_storage, settings
from orchestrator.errors import UsageError
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage

HELP = "Write the published table with a benchmark's own numbers beside it, and a verdict per cell."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which benchmark, which forms."""
    add_storage(parser)
    add_name(parser, default="the storage's only one, or $HRGRID_BENCHMARK")
    parser.add_argument("--format", default="html,md,csv,json", metavar="F[,F...]", help="default: %(default)s")
    parser.add_argument(
        "--every-cell",
        action="store_true",
        help="list all cells of the published table, also those never launched (default: the benchmark's own)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print the table."""
    from jobs._reporting import FORMATS, make_report, print_leaderboard, write_report
    from jobs._wiring import HrnetWorkload
    from orchestrator.report import to_json

    formats = [form.strip() for form in args.format.split(",")]
    for form in formats:
        if form not in FORMATS:
            raise UsageError(f"there is no report format {form!r}{suggestion(form, FORMATS)}")
    places = settings(args)
    known = Ledger(Storage(places.storage)).benchmarks()
    if args.name is None and len(known) == 1:
        places = dataclasses.replace(places, benchmark=known[0])
    if places.benchmark not in known:
        hint = suggestion(places.benchmark, known) if known else "; hrgrid launch makes one"
        raise UsageError(f"no benchmark in {places.storage} is called {places.benchmark!r}{hint}")
    report = make_report(places, HrnetWorkload(), every_cell=args.every_cell)
    written = write_report(places, report, formats)
    if args.json:
        print(to_json(report), end="")
        return 0
    print_leaderboard(report)
    print()
    for location in written.values():
        print(location)
    if line := mlflow_line(places):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main_of("report", HELP, add_arguments, run))
