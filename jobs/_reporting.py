"""The report of a benchmark: made, written and printed the same way by `launch`, `report` and `demo`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from hrnet.fields import public
from jobs._relay import HOST
from jobs._show import number, plural, print_table, reason_of
from jobs._wiring import HrnetWorkload
from jobs.ui import DEFAULT_PORT
from orchestrator import provenance
from orchestrator.ledger import Ledger
from orchestrator.report import Report, Row, collect, to_csv, to_html, to_json, to_markdown
from orchestrator.report.text import gap
from orchestrator.settings import Settings
from orchestrator.storage import Storage

__all__ = ["FORMATS", "keep_pictures", "make_report", "print_leaderboard", "refresh_report", "write_report"]

FORMATS: Mapping[str, Callable[[Report], str]] = MappingProxyType(
    {"html": to_html, "md": to_markdown, "csv": to_csv, "json": to_json}
)
"""File suffix to what writes that form."""

PICTURES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"": ("eval/overlays", 4), "best_": ("eval/best", 2), "worst_": ("eval/worst", 2)}
)
"""What a picture's name in storage begins with, the folder of a run's artifacts that it is from, and how many."""

NOTES = 6
"""Reasons against a comparison on the terminal, beside those that hold for all cells."""

_CONDITIONS = (
    "Scores are percent of the validation split that the data set was prepared with: mIoU single scale, mIoU(ms+flip) "
    "averaged over six scales and mirrored images. The last checkpoint of a training is evaluated.",
    "Published memory and speed are of V100 GPUs in single precision, measured by the authors of the table: the most "
    "that PyTorch allocated on one of four GPUs in training, and images per second at batch 1 without test-time "
    "augmentation. Rows without them were not measured separately.",
    "Own memory and speed are of the device that the trial ran on, by the same protocol; eval/speed.json of its run "
    "holds every condition. Memory is not measured on a CPU.",
)


def make_report(places: Settings, workload: HrnetWorkload, *, every_cell: bool = False, drawn: bool = True) -> Report:
    """Collect a benchmark's rows from the ledger; the tracking server is not asked."""
    remote = places.tracking.startswith("http")
    pages = public(places.tracking) if remote else f"http://{HOST}:{DEFAULT_PORT}"
    hint = () if remote else (f"Links to runs work while `hrgrid ui` is open on port {DEFAULT_PORT}.",)
    rows = collect(
        Ledger(Storage(places.storage)),
        places.benchmark,
        workload,
        run_url=lambda run_id: f"{pages}/#/runs/{run_id}",
        drawn=drawn,
        every_cell=every_cell,
    )
    return Report(
        title=f"HRNet benchmark: {places.benchmark}",
        rows=rows,
        conditions=(*_CONDITIONS, *hint),
        provenance=provenance.capture(),
        created=time.strftime("%Y-%m-%d %H:%M %Z"),
    )


def keep_pictures(places: Settings) -> None:
    """Bring small copies of the pictures of finished trials from MLflow to the storage, where reports find them.

    Those that are there stay.

    Raises TrackingError if MLflow is away.
    """
    ledger = Ledger(Storage(places.storage))
    records = ledger.trials(entry.key for entry in ledger.benchmark(places.benchmark))
    there = ledger.picture_names(records)
    lacking = [r for r in records.values() if r.state == "finished" and r.run_id and not there[r.key]]
    if not lacking:
        return
    from hrnet.draw import for_report
    from orchestrator.tracking import Tracker

    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    tracker.check()
    for record in lacking:
        run_id = str(record.run_id)
        for prefix, (folder, most) in PICTURES.items():
            for path in tracker.artifact_names(run_id, folder)[:most]:
                picture = tracker.read_artifact(run_id, path)
                if picture is not None:
                    name = prefix + path.rsplit("/", 1)[-1].removesuffix(".png")
                    ledger.write_picture(record.key, f"{name}.jpg", for_report(picture))


def refresh_report(places: Settings, workload: HrnetWorkload) -> tuple[Report, dict[str, str]]:
    """Return the report without pictures, and where it is; it is written unless the same facts were written before.

    A launch with nothing to do would otherwise spend most of its time on drawing what is there.
    """
    storage, folder = Storage(places.storage), f"reports/{places.benchmark}"
    report = make_report(places, workload, drawn=False)
    pictures = Ledger(storage).picture_names(trial.key for row in report.rows for trial in row.trials)
    facts = json.dumps([to_json(dataclasses.replace(report, created="")), pictures])
    made_of = {"sha256": hashlib.sha256(facts.encode()).hexdigest(), "forms": sorted(FORMATS)}
    there = set(storage.list(folder))
    if {f"report.{form}" for form in FORMATS} <= there and storage.find_json(f"{folder}/made-of.json") == made_of:
        return report, {form: f"{storage.uri}/{folder}/report.{form}" for form in FORMATS}
    written = write_report(places, make_report(places, workload))
    storage.write_json(f"{folder}/made-of.json", made_of)
    return report, written


def write_report(places: Settings, report: Report, formats: Collection[str] = tuple(FORMATS)) -> dict[str, str]:
    """Write the report to reports/<benchmark>/ of the storage; returns form to location."""
    storage = Storage(places.storage)
    folder = f"reports/{places.benchmark}"
    storage.delete(f"{folder}/made-of.json")
    for form in formats:
        storage.write_bytes(f"{folder}/report.{form}", FORMATS[form](report).encode())
    return {form: f"{storage.uri}/{folder}/report.{form}" for form in formats}


def print_leaderboard(report: Report) -> None:
    """Print the table on the terminal, section by section: reproduced beside published, and the verdicts.

    "publ." is the published number of the column before it; a gap in brackets is for information only. Main facts
    alone; the written forms hold all.
    """
    several = any(row.score and row.score.sd is not None for row in report.rows)
    columns = (
        "cell",
        "mIoU",
        *(["sd"] if several else []),
        "publ.",
        "gap",
        "ms+flip",
        "publ. ",
        "Mem",
        "fps",
        "verdict",
    )
    lines: list[tuple[str, ...]] = []
    for section, rows in report.sections.items():
        lines += [(section,)] if section else []
        lines += [_leaderboard_line(row, several=several) for row in rows]
    print_table(columns, lines, right=set(columns) - {"cell", "verdict"})
    if len(report.rows) > 1:
        print(report.summary)
    for reason in report.shared_reasons:
        print(f"not comparable: {reason}")
    notes = report.notes
    for reason, cells in list(notes.items())[:NOTES]:
        print(f"not comparable ({cells[0] if len(cells) == 1 else plural(len(cells), 'cell')}): {reason}")
    if len(notes) > NOTES:
        print(
            f"not comparable: {plural(len(notes) - NOTES, 'more reason')}, each with its cells, in the written report"
        )
    for row in report.rows:
        for trial in row.trials:
            if trial.error:
                print(f"{trial.name} failed: {reason_of(trial.error, row.cell)}")
            if trial.warning:
                print(f"{trial.name} is far below its reference: {trial.warning}")


def _leaderboard_line(row: Row, *, several: bool) -> tuple[str, ...]:
    score, flipped, theirs = row.score, row.score_ms_flip, row.published
    return (
        row.cell,
        number(None if score is None else score.mean),
        *([number(None if score is None else score.sd)] if several else []),
        number(theirs.get("val/mIoU")),
        gap(row, row.gap) or "-",
        number(None if flipped is None else flipped.mean),
        number(theirs.get("val/mIoU_ms_flip")),
        "n/a" if row.memory_on_cpu else number(row.memory, 1),
        number(row.speed, 1),
        row.verdict,
    )
