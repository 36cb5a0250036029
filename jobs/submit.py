"""`hrgrid submit`: the same commands on a cluster, as Ray jobs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hrnet.errors import suggestion
from jobs import logs
from jobs._command import CommandParser, main_of
from jobs._options import add_dashboard, add_json
from orchestrator.discreet import is_discreet, public
from orchestrator.errors import UsageError

HELP = "Run a command on a Ray cluster, as a job. This checkout travels with it; data and results do not."

SUBMITTABLE = ("launch", "train", "plan", "evaluate", "report", "status", "data", "doctor")
"""Commands that make sense without a person in front of them."""

ENVIRONMENT = ("HRGRID_DATA", "HRGRID_STORAGE", "HRGRID_TRACKING", "HRGRID_BENCHMARK")
"""Variables that a job is given as they are here."""

_PLACES = {"--data": "HRGRID_DATA", "--storage": "HRGRID_STORAGE", "--to": ""}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The cluster, then the command as it would be typed."""
    add_dashboard(parser)
    parser.add_argument("--job", metavar="NAME", help="name of the job (default: made up by Ray)")
    parser.add_argument("--python", default="python", metavar="PATH", help="Python of the cluster (default: python)")
    parser.add_argument("-f", "--follow", action="store_true", help="print its output, end with its exit code")
    add_json(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...", help=", ".join(SUBMITTABLE))


def run(args: argparse.Namespace) -> int:
    """Check the command here, then send it."""
    module = _checked(args.command)
    from orchestrator import cluster, provenance

    root = Path(__file__).resolve().parents[1]
    sent = cluster.submit(
        [args.python, "-m", module, *args.command[1:]],
        root=root,
        address=args.address,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        submission_id=args.job,
        provenance=provenance.capture(root),
    )
    if args.json:
        print(json.dumps({"job": sent.job, "address": sent.address, "package_bytes": sent.package_bytes}), flush=True)
    else:
        print(f"{sent.job} was sent to {sent.address} ({sent.package_bytes / 1e6:.1f} MB of code)")
        print(f"follow it: hrgrid logs {sent.job} -f   stop it: hrgrid stop {sent.job}", flush=True)
    return logs.show(sent.job, args.address, follow=True) if args.follow else 0


def _checked(words: Sequence[str]) -> str:
    """The command's module; raises UsageError for what would only fail later, on the cluster."""
    from jobs.cli import COMMANDS

    if not words:
        raise UsageError(f"hrgrid submit needs a command: {', '.join(SUBMITTABLE)}, with its options")
    name = words[0]
    if name not in SUBMITTABLE:
        raise UsageError(f"{name!r} is no command to submit{suggestion(name, SUBMITTABLE)}")
    for word in words[1:]:
        _check_discreet(word)
    module = importlib.import_module(COMMANDS[name][0])
    parser = CommandParser(f"hrgrid {name}", module.HELP)
    module.add_arguments(parser)
    parser.parse_args(words[1:])
    takes = {option for action in parser._actions for option in action.option_strings}
    for option, variable in _PLACES.items():
        _check_place(option, _value(words, option) or os.environ.get(variable), required=option in takes)
    _check_secret(_value(words, "--tracking") or os.environ.get("HRGRID_TRACKING"))
    return COMMANDS[name][0]


def _check_place(option: str, value: str | None, *, required: bool) -> None:
    if value is None and required and option == "--storage":
        raise UsageError("give --storage (or set HRGRID_STORAGE): a job's own folder vanishes with it")
    if value is not None and "://" not in value and not value.startswith("/"):
        raise UsageError(f"{option} {value} is relative to this folder, and a job runs elsewhere; give it in full")


def _check_discreet(word: str) -> None:
    if not is_discreet(word):
        raise UsageError(
            f"{public(word)} holds a password or a signature, and everybody who lists the jobs would see it; give an "
            "address without, or a file that every node reads, and the rest in the nodes' environment"
        )


def _check_secret(tracking: str | None) -> None:
    if tracking is not None and "@" in tracking:
        raise UsageError(
            "the tracking location holds a password, and everybody who lists the jobs would see it; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster's nodes instead"
        )


def _value(words: Sequence[str], option: str) -> str | None:
    """The value that an option was given, the last time it was."""
    found = None
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word == option:
            found = after
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


if __name__ == "__main__":
    sys.exit(main_of("submit", HELP, add_arguments, run))
