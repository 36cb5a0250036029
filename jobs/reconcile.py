"""`hrgrid reconcile`: what killed workers, drivers and launchers left behind, made true again."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from jobs._command import FAILED, main_of
from jobs._options import add_json, add_name, add_storage, settings
from orchestrator.errors import UsageError
from orchestrator.grid import near_miss
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage

HELP = (
    "Repair what killed launches left behind: runs that say RUNNING, results, points and logs that MLflow was not "
    "told, leases of the dead, second runs of one cell, half-uploaded checkpoints. The ledger in storage is the "
    "truth. Every launch repairs its own cells, too."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which storage and benchmark."""
    add_storage(parser)
    add_name(parser, default="all of the storage")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Repair and print one line each; exit code 1 if something could not be repaired."""
    from orchestrator.reconcile import reconcile
    from orchestrator.sweep import sweep

    places = settings(args)
    known = Ledger(Storage(places.storage)).benchmarks()
    if not known:
        raise UsageError(f"{places.storage} holds no benchmark; hrgrid launch makes one, or give another --storage")
    if args.name is not None and args.name not in known:
        raise UsageError(f"no benchmark in {places.storage} is called {args.name!r}{near_miss(args.name, known)}")
    repairs, swept = [], []
    for name in known if args.name is None else [args.name]:
        chosen = dataclasses.replace(places, benchmark=name)
        repairs += [(name, repair) for repair in reconcile(chosen, thorough=True, dry_run=args.dry_run)]
        if not args.dry_run:
            ledger = Ledger(Storage(places.storage))
            swept += sweep(ledger, [entry.key for entry in ledger.benchmark(name)])
    if args.json:
        facts = [{"benchmark": name, **dataclasses.asdict(repair)} for name, repair in repairs]
        print(json.dumps({"storage": places.storage, "repairs": facts, "swept": swept}, indent=1))
    else:
        for _, repair in repairs:
            print(repair)
        for sentence in swept:
            print(sentence)
        if not repairs and not swept:
            print("nothing to repair")
    return FAILED if any(repair.failed for _, repair in repairs) else 0


if __name__ == "__main__":
    sys.exit(main_of("reconcile", HELP, add_arguments, run))
