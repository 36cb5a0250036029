"""`--reference-log`: from what is named there to the curves that stand beside the runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hrnet.fetch import is_remote
from jobs._show import plural
from orchestrator.errors import UsageError, reason_of
from orchestrator.grid import Trial, near_miss
from orchestrator.identity import KEY_LENGTH
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.reference import Reference
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.workload import Cell

__all__ = ["Rule", "parse_references", "print_references", "references"]

PUBLISHED = "published"
"""In place of a file: the log that the published table names for the cell."""

_CURVES = ("train/loss", "train/acc", "train/lr", "val/mIoU", "val/mAcc", "val/aAcc")
"""Metrics of an earlier run that are taken."""

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which cells get which reference."""

    pattern: str
    source: str


def parse_references(texts: Sequence[str]) -> list[Rule]:
    """Parse `LOG` and `PATTERN:LOG`; the colon of an address or of a file that is there divides nothing."""
    rules = []
    for text in texts:
        pattern, colon, source = text.partition(":")
        if not colon or is_remote(text) or Path(text).exists():
            pattern, source = "*", text
        if not pattern.strip() or not source.strip():
            raise UsageError(f"the reference {text!r} is neither LOG nor PATTERN:LOG, such as 'fcn_hr48_*:published'")
        rules.append(Rule(pattern.strip(), source.strip()))
    return rules


def references(
    rules: Sequence[Rule],
    trials: Sequence[Trial],
    wanted: Callable[[str], bool],
    places: Settings,
    published: Callable[[Cell], str | None],
) -> dict[str, Reference]:
    """Return the reference of every trial that has one, by key; of several rules that match, the last holds.

    `wanted` tells whether a key's reference is of use (it will run); nothing is fetched for others. `published` is
    the address of a cell's published log, if it has one. Raises UsageError for a rule that matches no cell and for
    what is no reference, an HrnetError for a file that is no log or cannot be fetched.
    """
    for rule in rules:
        if not any(fnmatchcase(trial.spec.cell.name, rule.pattern) for trial in trials):
            hint = near_miss(rule.pattern, [trial.spec.cell.name for trial in trials])
            raise UsageError(f"the reference {rule.source!r} is for {rule.pattern!r}, which no cell has{hint}")
        if rule.source == PUBLISHED and not any(
            published(trial.spec.cell) for trial in trials if fnmatchcase(trial.spec.cell.name, rule.pattern)
        ):
            raise UsageError(f"no log is published for any cell of {rule.pattern!r}; give a file instead")
    known: dict[str, Reference] = {}
    found: dict[str, Reference] = {}
    for trial in trials:
        cell = trial.spec.cell
        source = next((rule.source for rule in reversed(rules) if fnmatchcase(cell.name, rule.pattern)), None)
        if source == PUBLISHED:
            source = published(cell)
        if source is None or not wanted(trial.key):
            continue
        if source not in known:
            known[source] = _reference(source, places)
        found[trial.key] = known[source]
    return found


def print_references(found: Mapping[str, Reference]) -> None:
    """Say what is drawn beside how many cells."""
    for source, count in Counter(reference.source for reference in found.values()).items():
        print(f"reference of {plural(count, 'cell')}: {source}")


def _reference(source: str, places: Settings) -> Reference:
    if is_remote(source) or Path(source).exists():
        from hrnet.reference_log import read_reference_log

        log = read_reference_log(source)
        total = max(curve[-1][0] for curve in log.curves.values())
        return Reference(source=log.source, sha256=log.sha256, total=total, curves=log.curves)
    ledger = Ledger(Storage(places.storage))
    cells = _cells(ledger)
    record = ledger.trial(source) if _KEY.fullmatch(source) else None
    if source in cells:
        record = _newest(ledger.trials(cells[source]), source, places)
    if record is None or record.state == "new":
        raise UsageError(
            f"the reference {source!r} is neither a file that is there, nor an address, nor 'published', nor a trial "
            f"key or cell of {places.storage}{near_miss(source, cells) if cells else ''}"
        )
    return _earlier(record, source, places)


def _cells(ledger: Ledger) -> dict[str, list[str]]:
    """The keys of every cell of a storage, by the cell's name."""
    cells: dict[str, list[str]] = {}
    for name in ledger.benchmarks():
        for entry in ledger.benchmark(name):
            cells.setdefault(entry.cell, []).append(entry.key)
    return cells


def _newest(records: Mapping[str, TrialRecord], cell: str, places: Settings) -> TrialRecord:
    finished = [record for record in records.values() if record.state == "finished"]
    if not finished:
        raise UsageError(f"no trial of {cell} in {places.storage} is finished, and so none can be the reference")
    return max(finished, key=lambda record: float((record.result or {})["ended"]))


def _earlier(record: TrialRecord, source: str, places: Settings) -> Reference:
    """The curves of an earlier run, from its tracking run; raises UsageError if it has none."""
    from orchestrator.runstore import probe
    from orchestrator.tracking import Tracker

    curves = {}
    if record.run_id is not None:
        tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
        probe(tracker.uri)
        try:
            curves = {name: curve for name in _CURVES if (curve := tracker.history(record.run_id, name))}
        except Exception as error:  # MLflow's own, of a run that was deleted or a store that refuses
            reason = reason_of(error)
            raise UsageError(f"the earlier run {source!r} cannot be read in {places.tracking} ({reason})") from error
    if not curves:
        raise UsageError(f"the earlier run {source!r} has no curve in {places.tracking}, and so cannot be a reference")
    last = max(curve[-1][0] for curve in curves.values())
    total = max(last, int((record.progress or {}).get("total") or 0))
    return Reference(source=f"trial {record.key}", sha256="", total=total, curves=curves)
