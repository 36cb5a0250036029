"""`hrgrid submit`: the same commands on a cluster, as Ray jobs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hrnet.errors import suggestion
from jobs import logs
from jobs._command import CommandParser, main_of
from jobs._options import add_dashboard, add_json
from orchestrator.addresses import is_public, public
from orchestrator.errors import UsageError
from orchestrator.grid import parse_overrides

if TYPE_CHECKING:
    from orchestrator.cluster import Submission
    from orchestrator.provenance import Source

HELP = "Run a command on a Ray cluster, as a job. This checkout travels with it; data and results do not."

SUBMITTABLE = ("launch", "train", "plan", "evaluate", "report", "status", "data", "doctor")
"""Commands that make sense without a person in front of them."""

ENVIRONMENT = ("HRGRID_DATA", "HRGRID_STORAGE", "HRGRID_TRACKING", "HRGRID_BENCHMARK")
"""Variables that a job is given as they are here."""

_PLACES = {"--data": "HRGRID_DATA", "--storage": "HRGRID_STORAGE", "--to": ""}
_ALONE = ("localhost", "127.0.0.1", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The cluster, then the command as it would be typed."""
    add_dashboard(parser)
    parser.add_argument("--job", metavar="NAME", help="name of the job (default: the command and the time)")
    parser.add_argument("--python", default="python", metavar="PATH", help="Python of the cluster (default: python)")
    parser.add_argument("-f", "--follow", action="store_true", help="print its output, end with its exit code")
    add_json(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...", help=", ".join(SUBMITTABLE))


def run(args: argparse.Namespace) -> int:
    """Check the command here, then send it."""
    module = _checked(args.command)
    from orchestrator import cluster, provenance

    _check_reach(args.command, cluster.hosts(args.address))
    root = Path(__file__).resolve().parents[1]
    source = provenance.source(root)
    sent = cluster.submit(
        [args.python, "-m", module, *args.command[1:]],
        root=root,
        address=args.address,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        name=args.job or f"{args.command[0]}-{time.strftime('%m%d-%H%M%S')}",
        source=source,
    )
    if args.json:
        facts = {"job": sent.job, "address": sent.address, "package_bytes": sent.package_bytes, **source.facts}
        print(json.dumps(facts), flush=True)
    else:
        _tell(sent, source, args)
    return logs.show(sent.job, args.address, follow=True) if args.follow else 0


def _tell(sent: Submission, source: Source, args: argparse.Namespace) -> None:
    """Say what was sent, and what can be done next."""
    if sent.before is not None:
        print(f"{sent.before.name} is {sent.before.status} already, so this one has a number behind its name")
    commit = source.facts["git_commit"]
    code = "no commit is known of it" if commit is None else f"commit {str(commit)[:10]}"
    if source.facts["git_dirty"]:
        code += " with uncommitted changes, which every run keeps"
    print(f"{sent.job} was sent to {sent.address}: {sent.package_bytes / 1e6:.1f} MB of code, {code}")
    where = f" --address {args.address}" if args.address else ""
    print(f"follow it: hrgrid logs {sent.job} -f{where}")
    print(f"stop it:   hrgrid stop {sent.job}{where}")
    print(f"all jobs:  hrgrid jobs{where}", flush=True)


def _checked(words: Sequence[str]) -> str:
    """The command's module; raises UsageError for what would only fail later, on the cluster."""
    from jobs.cli import COMMANDS

    if not words:
        raise UsageError(f"hrgrid submit needs a command: {', '.join(SUBMITTABLE)}, with its options")
    name = words[0]
    if name not in SUBMITTABLE:
        raise UsageError(f"{name!r} is no command to submit{suggestion(name, SUBMITTABLE)}")
    for word in words[1:]:
        _check_public(word)
    module = importlib.import_module(COMMANDS[name][0])
    parser = CommandParser(f"hrgrid {name}", module.HELP)
    module.add_arguments(parser)
    parsed = parser.parse_args(words[1:])
    takes = {option for action in parser._actions for option in action.option_strings}
    for option, variable in _PLACES.items():
        _check_place(option, _value(words, option) or os.environ.get(variable), required=option in takes)
    _check_secret(_tracking(words))
    _check_files(words[1:])
    if name != "evaluate":
        parse_overrides(getattr(parsed, "overrides", []))
    if name in ("launch", "train") and parsed.data is None and not getattr(parsed, "smoke", False):
        raise UsageError("give --data (or set HRGRID_DATA): prepared data that the cluster's nodes can read")
    return COMMANDS[name][0]


def _check_reach(words: Sequence[str], machines: Sequence[str]) -> None:
    """Raise UsageError for a tracking store that only one machine of several would reach, and for data not there."""
    tracking, data = _tracking(words) or "", _value(words, "--data") or os.environ.get("HRGRID_DATA") or ""
    if len(machines) > 1 and (tracking.startswith("sqlite:") or urlsplit(tracking).hostname in _ALONE):
        raise UsageError(
            f"the tracking location {tracking} is another one on each of the cluster's {len(machines)} machines; give "
            "the address of an MLflow server under which all of them reach it, such as http://10.0.0.5:5000"
        )
    if list(machines) == [socket.gethostname()] and data.startswith("/") and not Path(data).exists():
        raise UsageError(f"--data {data} is not there; the cluster is this machine alone")


def _check_files(words: Sequence[str]) -> None:
    """Raise UsageError for a file of this machine, given as a path from here."""
    for word in words:
        value = word.rpartition("=")[2]
        path = Path(value)
        if not value or path.is_absolute() or "://" in value:
            continue
        if path.is_file() or ("/" in value and path.exists()):
            raise UsageError(
                f"{value} is relative to this folder, and a job runs elsewhere; put it where every node reads it and "
                "give that place in full"
            )


def _check_place(option: str, value: str | None, *, required: bool) -> None:
    if value is None and required and option == "--storage":
        raise UsageError("give --storage (or set HRGRID_STORAGE): a job's own folder vanishes with it")
    if value is not None and "://" not in value and not value.startswith("/"):
        raise UsageError(f"{option} {value} is relative to this folder, and a job runs elsewhere; give it in full")


def _check_public(word: str) -> None:
    if not is_public(word):
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


def _tracking(words: Sequence[str]) -> str | None:
    return _value(words, "--tracking") or os.environ.get("HRGRID_TRACKING")


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
