"""How long the report of 45 cells takes and how large it is: `python -m tests.jobs.report_figures [FOLDER]`.

Over a made-up benchmark with the curves of the published schedules, the scores of every class and, the second time,
with eight pictures of every finished trial. With a folder the reports stay there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from jobs._reporting import make_report
from jobs._wiring import HrnetWorkload
from orchestrator.report import to_html, to_json
from orchestrator.settings import make_settings
from tests.jobs.made_up import FULL, write_exhibits, write_ledger


def measure(folder: Path, *, pictures: bool) -> None:
    """Print seconds and sizes of one benchmark's report."""
    write_ledger(folder)
    write_exhibits(folder, pictured=FULL + 2 if pictures else 0)
    places = make_settings(storage=str(folder), tracking="http://mlflow:5000", benchmark="made-up", environment={})
    to_html(make_report(places, HrnetWorkload(), drawn=False))  # what is imported once is not measured
    began = time.perf_counter()
    report = make_report(places, HrnetWorkload(), every_cell=True)
    read = time.perf_counter()
    html = to_html(report)
    drawn = time.perf_counter()
    print(f"{len(report.rows)} cells with curves{' and pictures' if pictures else ''}:")
    print(f"  read from storage {read - began:.2f} s, drawn {drawn - read:.2f} s")
    print(f"  report.html {len(html.encode()) / 1e6:.2f} MB, report.json {len(to_json(report)) / 1e6:.2f} MB")
    (folder / "report.html").write_text(html)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="hrgrid-report-") as scratch:
        kept = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        for name, pictures in (("curves", False), ("pictures", True)):
            (kept / name).mkdir(parents=True)
            measure(kept / name, pictures=pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
