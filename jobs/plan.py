"""`hrgrid plan`: what a launch would do, why and for how long. Starts nothing, writes nothing."""

from __future__ import annotations

import argparse
import json
import sys

from jobs._command import MISUSED, complain, main_of
from jobs._options import add_filters, add_json, add_launch
from jobs._planning import cluster_shape, draft, note, obstacles
from jobs._plantable import plan_facts, print_plan
from jobs._reference import print_references

HELP = "Say what a launch with the same options would run, resume and skip, and for how long. Starts nothing."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a launch."""
    add_filters(parser)
    add_launch(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan; exit code 2 if something could not run."""
    made = draft(args, cluster_shape(args))
    if args.json:
        shown = {key: reference.source for key, reference in made.references.items()}
        print(json.dumps({**plan_facts(made.plan, made.settings, args.price), "references": shown}, indent=1))
    else:
        print_plan(made.plan, args.price)
        print_references(made.references)
    problems = obstacles(made.plan)
    for problem in problems:
        complain(problem)
    if args.data is None and not problems:
        note("without --data (or HRGRID_DATA) no data are checked, and which cells are finished is not known")
    return MISUSED if problems else 0


if __name__ == "__main__":
    sys.exit(main_of("plan", HELP, add_arguments, run))
