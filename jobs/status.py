"""`hrgrid status`: where every cell of a benchmark is, from the ledger in storage alone."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs._browse import mlflow_line
from jobs._command import main_of
from jobs._options import add_json, add_name, add_storage, settings
from jobs._show import duration, number, plural, print_table, reason_of
from orchestrator.errors import UsageError
from orchestrator.grid import near_miss
from orchestrator.ledger import Entry, Ledger, TrialRecord
from orchestrator.settings import Settings
from orchestrator.storage import Storage

if TYPE_CHECKING:
    from orchestrator.watching import TrialProgress

WATCH_SECONDS = 2.0
"""Between two looks at the storage."""

_ENDED_EARLY = ("failed", "stopped")

HELP = "Say where every cell of a benchmark is: its state, step, scores and MLflow run."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which storage and benchmark."""
    add_storage(parser)
    add_name(parser, default="all of the storage")
    parser.add_argument(
        "-w", "--watch", action="store_true", help="go on showing it until every cell has ended; Ctrl-C ends it, too"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of every cell."""
    places = settings(args)
    ledger = Ledger(Storage(places.storage))
    names = _names(ledger, places, args.name)
    if args.watch:
        if args.json:
            raise UsageError("--watch is for people and --json for programs: give one of them")
        _watch(ledger, names)
    found = []
    for name in names:
        entries = ledger.benchmark(name)
        records = ledger.trials(entry.key for entry in entries)
        found.append((name, [_facts(entry, records[entry.key]) for entry in entries]))
    if args.json:
        benchmarks = [{"name": name, "counts": _counts(cells), "cells": cells} for name, cells in found]
        print(json.dumps({"storage": places.storage, "benchmarks": benchmarks}, indent=1))
        return 0
    for name, cells in found:
        _print(name, cells)
        if line := mlflow_line(dataclasses.replace(places, benchmark=name)):
            print(f"{line}\n")
    _print_next(places, [cell for _, cells in found for cell in cells])
    return 0


def _watch(ledger: Ledger, names: Sequence[str]) -> None:
    """Show the cells until all have ended, or Ctrl-C."""
    from jobs._live import Board

    def titles() -> dict[str, str]:
        entries = [entry for name in names for entry in ledger.benchmark(name)]
        records = ledger.trials(entry.key for entry in entries)
        return {entry.key: _label(_facts(entry, records[entry.key])) for entry in entries}

    shown = titles()
    with contextlib.suppress(KeyboardInterrupt), Board(shown) as board:
        while True:
            seen = [_seen(key, record) for key, record in ledger.trials(shown).items()]
            board.update(seen)
            if not any(each.state in ("running", "waiting", "interrupted") for each in seen):
                break
            time.sleep(WATCH_SECONDS)
            shown |= titles()  # a launch may have added some
            board.rename(shown)
    print()


def _seen(key: str, record: TrialRecord) -> TrialProgress:
    """A trial as a board shows it: by its state in the ledger, whichever launch it is of."""
    from orchestrator.watching import trial_progress

    ended = record.state in ("finished", "failed", "stopped")
    found = trial_progress(key, "", record.progress or {}, record.result if ended else None)
    state = "waiting" if record.state == "new" else record.state
    return dataclasses.replace(found, state=state, phase=found.phase if state == "running" else "")


def _print_next(places: Settings, cells: Sequence[dict[str, Any]]) -> None:
    """Say what can be done now."""
    states = {cell["state"] for cell in cells}
    storage = shlex.quote(places.storage)
    words = [f"hrgrid status --watch --storage {storage}"] if "running" in states else []
    words += [f"hrgrid report --storage {storage}"] if "finished" in states else []
    words += [f"hrgrid ui --storage {storage}"] if places.tracking.startswith("sqlite") else []
    if states & {"interrupted", "failed", "stopped"}:
        print("interrupted, failed and stopped cells go on when the same launch is given again")
    if words:
        print(f"next: {'   '.join(words)}")


def _names(ledger: Ledger, places: Settings, asked: str | None) -> list[str]:
    known = ledger.benchmarks()
    if not known:
        raise UsageError(f"{places.storage} holds no benchmark; hrgrid launch makes one, or give another --storage")
    if asked is None:
        return known
    if asked not in known:
        raise UsageError(f"no benchmark in {places.storage} is called {asked!r}{near_miss(asked, known)}")
    return [asked]


def _facts(entry: Entry, record: TrialRecord) -> dict[str, Any]:
    progress, result = record.progress or {}, record.result or {}
    return {
        "cell": entry.cell,
        "seed": entry.seed,
        "sample": dict((record.spec or {}).get("sample") or {}),
        "key": entry.key,
        **entry.facets,
        "state": record.state,
        "phase": progress.get("phase") if record.state == "running" else None,
        "step": progress.get("step"),
        "total": progress.get("total"),
        "metrics": {**(progress.get("metrics") or {}), **record.metrics},
        "run_id": record.run_id,
        "age_seconds": None if record.age is None else round(record.age, 1),
        "warning": record.warning or None,
        "error": result.get("error") if record.state == "failed" else None,
        "failure": result.get("failure") if record.state in _ENDED_EARLY else None,
        "advice": result.get("advice") if record.state in _ENDED_EARLY else None,
    }


def _counts(cells: Sequence[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(cell["state"] for cell in cells))


def _print(name: str, cells: Sequence[dict[str, Any]]) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in _counts(cells).items())
    print(f"{name}: {plural(len(cells), 'cell')}, {counts}")
    rows = []
    for cell in cells:
        step = "-" if cell["step"] is None else f"{cell['step']}/{cell['total']}"
        metrics = cell["metrics"]
        scores = [number(metrics.get(key)) for key in ("val/mIoU", "val/mIoU_ms_flip")]
        loss = number(metrics.get("train/loss"), 4)
        # "training" needs no word; what a gang waits for does.
        state = cell["state"] if cell["phase"] in (None, "training") else cell["phase"]
        rows.append((_label(cell), state, step, loss, *scores, duration(cell["age_seconds"]), cell["key"]))
    columns = ("cell", "state", "step", "loss", "mIoU", "ms+flip", "last sign", "key")
    print_table(columns, rows, right={"step", "loss", "mIoU", "ms+flip", "last sign"})
    for cell in cells:
        if cell["error"]:
            print(f"{_label(cell)} failed: {reason_of(cell['error'], cell['cell'])}")
        if cell["advice"]:
            print(f"{' ' * 2 if cell['error'] else _label(cell) + ' '}{cell['failure']}: {cell['advice']}")
        if cell["warning"]:
            print(f"{_label(cell)} is far below its reference: {cell['warning']}")
    print()


def _label(cell: dict[str, Any]) -> str:
    seed = f" seed {cell['seed']}" if cell["seed"] else ""
    return f"{cell['cell']}{seed}" + "".join(f" {name}={value}" for name, value in cell["sample"].items())


if __name__ == "__main__":
    sys.exit(main_of("status", HELP, add_arguments, run))
