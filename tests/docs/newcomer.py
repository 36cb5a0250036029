"""How long a newcomer waits for the first picture: `python -m tests.docs.newcomer`.

A fresh clone, `make demo`, the report in Chromium; prints the seconds of each stage. pip may use its cache, as on any
machine where PyTorch was installed once. Takes about ten minutes on two cores; `--installed` borrows the packages of
this interpreter in place of the installation.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.docs.blocks import ROOT
from tests.docs.stage import install
from tests.integration import children
from tests.integration.browser import visit

REPORT = "hrgrid-results/reports/demo/report.html"

MARKS = (
    ("installed", re.compile(r"^\$ hrgrid data synth")),
    ("images drawn", re.compile(r"^\$ hrgrid data prepare")),
    ("data prepared", re.compile(r"^\$ hrgrid launch")),
    ("plan printed", re.compile(r"starting$")),
    ("first cell trains", re.compile(r"training, step \d+")),
    ("first cell finished", re.compile(r": finished")),
)
"""A stage to the line of the output that ends it, in this order."""


def run(words: list[str], folder: Path, environment: Mapping[str, str], began: float) -> list[tuple[str, float]]:
    """Run a command that must succeed; returns when each stage ended, in seconds since `began`."""
    passed: list[tuple[str, float]] = []
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  | {line}", end="", flush=True)
            for name, form in MARKS[len(passed) :]:
                if form.search(line.rstrip()):
                    passed.append((name, time.monotonic() - began))
                    break
        code = process.wait(60)
    finally:
        children.end(process)
    if code:
        raise SystemExit(f"{' '.join(words)} ended with {code}")
    return [*passed, (f"{' '.join(words)} ended", time.monotonic() - began)]


def main() -> int:
    """Take the path once and print its times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--installed", action="store_true", help="leave the installation out")
    args = parser.parse_args()
    prefixes = ("HRGRID_", "RAY_", "MLFLOW_", "AWS_", "PYTHON", "VIRTUAL_ENV", "OMP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    with tempfile.TemporaryDirectory(prefix="hrgrid-newcomer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        checkout = folder / "hrgrid"
        # What is remembered of earlier runs is not there for a newcomer.
        environment["HRGRID_CACHE"] = str(folder / "cache")
        began = time.monotonic()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
        times = [("cloned", time.monotonic() - began)]
        if args.installed:
            install(checkout)
        times += run(["make", "demo"], checkout, environment, began)
        with visit(f"file://{checkout / REPORT}") as seen:
            seen.page.wait_for_selector("table")
            seen.shoot("newcomer-report")
            times.append(("report on screen", time.monotonic() - began))
            errors = list(seen.errors)
    before = 0.0
    print(f"\n{'stage':28}{'seconds':>9}{'since the beginning':>21}")
    for stage, seconds in times:
        print(f"{stage:28}{seconds - before:9.1f}{seconds:21.1f}")
        before = seconds
    for error in errors:
        print(f"error in the browser: {error}")
    missing = [name for name, _ in MARKS if name not in dict(times)]
    if missing:
        print(f"never seen: {', '.join(missing)}")
    return 1 if errors or missing else 0


if __name__ == "__main__":
    sys.exit(main())
