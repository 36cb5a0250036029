"""The report of a benchmark: made, written and printed the same way by `launch`, `report` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from jobs._show import number, print_table
from jobs._wiring import HrnetWorkload
from jobs.ui import DEFAULT_PORT, HOST
from orchestrator import provenance
from orchestrator.ledger import Ledger
from orchestrator.report import Report, collect, to_csv, to_html, to_json, to_markdown
from orchestrator.settings import Settings
from orchestrator.storage import Storage

__all__ = ["FORMATS", "keep_pictures", "make_report", "print_leaderboard", "write_report"]

FORMATS: Mapping[str, Callable[[Report], str]] = MappingProxyType(
    {"html": to_html, "md": to_markdown, "csv": to_csv, "json": to_json}
)
"""File suffix to what writes that form."""

PICTURES = 4
"""Overlays per trial in the HTML report."""

_CONDITIONS = (
    "Scores are percent of the validation split that the data set was prepared with: mIoU single scale, ms+flip "
    "averaged over six scales and mirrored images.",
    "Published memory and speed were measured on V100 GPUs by the authors of the published table.",
)


def make_report(places: Settings, workload: HrnetWorkload, *, every_cell: bool = False) -> Report:
    """Collect a benchmark's rows from the ledger; the tracking server is not asked."""
    remote = places.tracking.startswith("http")
    pages = places.tracking if remote else f"http://{HOST}:{DEFAULT_PORT}"
    hint = () if remote else (f"Links to runs work while `hrgrid ui` is open on port {DEFAULT_PORT}.",)
    rows = collect(
        Ledger(Storage(places.storage)),
        places.benchmark,
        workload,
        run_url=lambda run_id: f"{pages}/#/runs/{run_id}",
        pictures=PICTURES,
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
    """Copy the overlays of finished trials from MLflow to the storage, where reports find them; those there stay.

    Raises TrackingError if MLflow is away.
    """
    ledger = Ledger(Storage(places.storage))
    records = ledger.trials(entry.key for entry in ledger.benchmark(places.benchmark))
    lacking = [r for r in records.values() if r.state == "finished" and r.run_id and not ledger.pictures(r.key, 1)]
    if not lacking:
        return
    from orchestrator.tracking import Tracker

    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    tracker.check()
    for record in lacking:
        run_id = str(record.run_id)
        for path in tracker.artifact_names(run_id, "eval/overlays")[:PICTURES]:
            picture = tracker.read_artifact(run_id, path)
            if picture is not None:
                ledger.write_picture(record.key, path.rsplit("/", 1)[-1], picture)


def write_report(places: Settings, report: Report, formats: Collection[str] = tuple(FORMATS)) -> dict[str, str]:
    """Write the report to reports/<benchmark>/ of the storage; returns form to location."""
    storage = Storage(places.storage)
    folder = f"reports/{places.benchmark}"
    for form in formats:
        storage.write_bytes(f"{folder}/report.{form}", FORMATS[form](report).encode())
    return {form: f"{storage.uri}/{folder}/report.{form}" for form in formats}


def print_leaderboard(report: Report) -> None:
    """Print the table on the terminal: reproduced beside published, and the verdicts."""
    score, flipped = "val/mIoU", "val/mIoU_ms_flip"
    columns = ("cell", "mIoU", "published", "gap", "ms+flip", "published ms+flip", "verdict")
    rows = []
    for row in report.rows:
        ours, theirs = row.reproduced, row.published
        scores = (number(ours.get(score)), number(theirs.get(score)), "-" if row.gap is None else f"{row.gap:+.2f}")
        rows.append((row.name, *scores, number(ours.get(flipped)), number(theirs.get(flipped)), row.verdict))
    print_table(columns, rows, right=set(columns) - {"cell", "verdict"})
    for reason in report.shared_reasons:
        print(f"not comparable: {reason}")
    for row in report.rows:
        if row.error:
            print(f"{row.name} failed: {row.error.strip().splitlines()[0]}")
