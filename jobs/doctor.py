"""`hrgrid doctor`: looks over a cluster or this machine, one line and one fix per finding."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from hrnet.catalogue import Recipe, select
from hrnet.workload import catalogue, custom_cards
from jobs._command import FAILED, main_of
from jobs._examined import batch_bytes, biggest_gang, data_check, weights_check
from jobs._options import add_address, add_filters, add_json, add_name, add_places, facets, overrides_for, settings
from orchestrator.doctor.access import connected
from orchestrator.doctor.examine import examine, in_time
from orchestrator.doctor.model import Check, Finding, Nodes, everywhere, sentence
from orchestrator.errors import UsageError

HELP = (
    "Look over the cluster, or this machine, before training: versions, token, GPUs, collectives, memory, disks, "
    "clocks, storage, MLflow, data, weights. One line and one fix each; exit code 1 if a check failed."
)

_LOOK_SECONDS = 30.0
"""For a first look at the data, from here, which says what the nodes must have room for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a launch that say where things are."""
    add_filters(parser)
    add_places(parser)
    add_name(parser)
    add_address(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="[PATTERN:]KEY=VALUE", dest="overrides",
        help="as for launch: what the recipes would be changed by, such as pretrained=FILE",
    )  # fmt: skip
    parser.add_argument("--fast", action="store_true", help="leave out the collective, which starts processes")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Examine and print; exit code 1 if a check failed."""
    places = settings(args)
    address = args.address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("http"):
        raise UsageError(f"{address} takes jobs: use hrgrid submit doctor, or give the address such as host:6379")
    began = time.monotonic()
    recipes, room = _wanted(args)
    failures: list[Finding] = []
    if address != "local":
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # what is still asking at the end must not start a Ray of its own
        failures = connected(address)
    cluster = address != "local" and not failures
    try:
        nodes = _machines(cluster)
        checks = _checks(args, places.storage, places.tracking, recipes, room, cluster=cluster)
        show = _Shown(checks, args.json)
        show.add(failures)
        if failures:
            show.add([_HERE_ALONE])
        if args.data is None:
            show.add([_WITHOUT_DATA])
        examine(checks, nodes, done=show.done)
    finally:
        if cluster:
            import ray

            ray.shutdown()
    show.end(time.monotonic() - began, [machine.name for machine in nodes.machines])
    return FAILED if any(finding.level == "failed" for finding in show.found) else 0


_HERE_ALONE = Finding(
    check="cluster", level="warning", said="what follows is of this machine alone", fix="mend the above first"
)
_WITHOUT_DATA = Finding(
    check="data", level="warning", said="no data was given, and none was looked at", fix="give --data or HRGRID_DATA"
)


def _wanted(args: argparse.Namespace) -> tuple[tuple[Recipe, ...], float]:
    """The recipes chosen, and the bytes that caches must have room for: those of remote data."""
    cards = in_time(partial(custom_cards, args.data))(_LOOK_SECONDS, ())
    chosen = select(catalogue(cards), args.dataset, args.width, args.schedule, args.names)
    recipes = tuple(recipe.with_overrides(overrides_for(recipe.name, args.overrides)) for recipe in chosen)
    remote = args.data is not None and "://" in args.data
    return recipes, in_time(partial(_bytes, args.data))(_LOOK_SECONDS, 0.0) if remote else 0.0


def _bytes(data: str) -> float:
    from hrnet.data.shards import list_datasets

    found = list_datasets(data)
    return float(sum(shard.bytes for each in found for name in each.splits for shard in each.split(name).shards))


def _machines(cluster: bool) -> Nodes:
    from orchestrator.doctor.nodes import Cluster, ThisMachine

    return Cluster() if cluster else ThisMachine()


def _checks(
    args: argparse.Namespace, storage: str, tracking: str, recipes: Sequence[Recipe], room: float, *, cluster: bool
) -> list[Check]:
    """All checks, in the order in which they are shown: what a later one needs comes first."""
    from jobs._collective import all_reduce
    from orchestrator.doctor import hardware, roles, software
    from orchestrator.doctor.collective import collective_check
    from orchestrator.doctor.services import storage_check
    from orchestrator.doctor.tracking import tracking_check

    versions = partial(software.judge_versions, here=software.versions())
    token = partial(software.ask_token, dashboard=_dashboard() if cluster else None)
    checks = [
        Check(name="versions", ask=everywhere(software.versions), judge=versions, seconds=60.0),
        Check(name="token", ask=token, judge=partial(software.judge_token, cluster=cluster)),
    ]
    if cluster:
        slots = partial(roles.judge_slots, biggest=biggest_gang(recipes))
        checks += [
            Check(name="gang budget", ask=roles.ask_roles, judge=slots),
            Check(name="drivers' node", ask=roles.ask_head, judge=roles.judge_head),
            Check(name="clocks", ask=hardware.ask_clocks, judge=hardware.judge_clocks, seconds=60.0),
        ]
    shm = partial(hardware.judge_shm, batch_bytes=batch_bytes(recipes))
    checks += [
        Check(name="gpus", ask=everywhere(hardware.gpus), judge=hardware.judge_gpus),
        Check(name="/dev/shm", ask=everywhere(hardware.shm), judge=shm),
        Check(name="disk", ask=everywhere(hardware.disks), judge=partial(hardware.judge_disks, data_bytes=room)),
        Check(name="memory", ask=everywhere(hardware.memory), judge=hardware.judge_memory),
        Check(name="open files", ask=everywhere(hardware.open_files), judge=hardware.judge_files),
        storage_check(storage),
        tracking_check(tracking),
    ]
    if args.data is not None:
        filtered = bool(facets(args) or args.names)
        checks.append(data_check(args.data, sorted({r.dataset for r in recipes}) if filtered else None))
    checks.append(weights_check(recipes))
    return checks if args.fast else [*checks, collective_check(all_reduce)]


def _dashboard() -> str | None:
    import ray

    return getattr(ray._private.worker._global_node, "webui_url", None) or None


class _Shown:
    """Prints findings as they come: lines in a pipe, a table at the end on a terminal, JSON when it was asked for."""

    def __init__(self, checks: Sequence[Check], as_json: bool) -> None:
        self.found: list[Finding] = []
        self._json = as_json
        self._terminal = sys.stdout.isatty() and not as_json
        self._open = [check.name for check in checks]
        self._status: Any = None
        if self._terminal:
            from jobs._show import console

            self._status = console().status("")
            self._status.start()
            self._tell()

    def done(self, check: Check, found: Sequence[Finding]) -> None:
        """Take the findings of a check that has ended."""
        self._open.remove(check.name)
        self._tell()
        self.add(found)

    def add(self, found: Sequence[Finding]) -> None:
        """Take findings."""
        self.found += found
        if not self._terminal and not self._json:
            for finding in found:
                fix = f"; fix: {finding.fix}" if finding.fix else ""
                print(f"{finding.level:<8}{finding.check:<14}{sentence(finding)}{fix}", flush=True)

    def _tell(self) -> None:
        if self._status is not None:
            self._status.update(f"looking at {', '.join(self._open)}")

    def end(self, seconds: float, machines: Sequence[str]) -> None:
        """Print what is left to print, and the sum."""
        if self._status is not None:
            self._status.stop()
        counts = Counter(finding.level for finding in self.found)
        if self._json:
            facts = [dataclasses.asdict(finding) for finding in self.found]
            document = {"ok": not counts["failed"], "machines": machines, "counts": dict(counts), "findings": facts}
            print(json.dumps({**document, "seconds": round(seconds, 1)}, indent=1))
            return
        if self._terminal:
            _print_table(self.found)
        machines_told = "1 machine" if len(machines) == 1 else f"{len(machines)} machines"
        told = ", ".join(f"{counts[level]} {level}" for level in ("ok", "warning", "failed") if counts[level])
        print(f"{machines_told}: {told} in {seconds:.0f} s")


_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def _print_table(found: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from jobs._show import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "check", "found", "fix"):
        table.add_column(column, no_wrap=column in ("", "check"), overflow="fold")
    for finding in found:
        level = Text(finding.level, style=_COLOURS[finding.level])
        table.add_row(level, Text(finding.check), Text(sentence(finding)), Text(finding.fix))
    console().print(table)


if __name__ == "__main__":
    sys.exit(main_of("doctor", HELP, add_arguments, run))
