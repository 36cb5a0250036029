"""Pictures of a running grid as a person sees it: `python -m tests.integration.screens OUT`.

Starts a Ray head and an MLflow server, submits a small grid on drawn data, opens the dashboard's page of the job and
MLflow's page of the experiment in Chromium while it runs, and saves both as PNG. Debian's Chromium is used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jobs._mlserver import Server
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from tests.integration import children
from tests.integration.security.head import Head, head

__all__ = ["main"]

GRID: Final = (
    "launch", "--dataset", "cityscapes", "--schedule", "40k", "--width", "w18-small", "--width", "w18", "--smoke",
    "--workers", "1", "--cpus-per-worker", "1", "--set", "max_iters=60", "--set", "val_interval=10",
    "--set", "checkpoint_interval=10", "--yes",
)  # fmt: skip
SECONDS: Final = 900.0
WIDE: Final = {"width": 1500, "height": 900}


def main(out: Path) -> int:
    """Take the pictures; exit code 1 if the grid does not train."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hrgrid-screens-") as temporary:
        folder = Path(temporary)
        with Server.within(folder / "mlflow") as server, head(folder, MLFLOW_TRACKING_URI=server.uri) as running:
            job = _submit(running, folder, server.uri)
            children.wait_for(lambda: _trains(folder), SECONDS, "the grid trains")
            print(f"{job} trains", flush=True)
            _shoot(out, running, job, server.uri)
    return 0


def _submit(running: Head, folder: Path, tracking: str) -> str:
    places = ("--storage", f"{folder}/results", "--tracking", tracking)
    command = [sys.executable, "-m", "jobs.cli", "submit", "--python", sys.executable, "--json", *GRID, *places]
    settings = {**running.environment, "PYTHONPATH": str(children.ROOT)}
    done = subprocess.run(command, cwd=children.ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["job"])


def _trains(folder: Path) -> bool:
    ledger = Ledger(Storage(f"{folder}/results"))
    progress = [ledger.progress(entry.key) or {} for entry in ledger.benchmark("smoke")]
    return any(document.get("step", 0) >= 20 for document in progress)


def _shoot(out: Path, running: Head, job: str, tracking: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        try:
            page: Any = browser.new_page(viewport=WIDE)
            page.goto(running.dashboard, wait_until="domcontentloaded", timeout=120_000)
            page.wait_for_timeout(8_000)
            page.screenshot(path=out / "ray-login.png")
            context: Any = browser.new_context(viewport=WIDE, extra_http_headers=_token(running))
            page = context.new_page()
            for name, place in {"ray-jobs": "jobs", "ray-job": f"jobs/{job}"}.items():
                page.goto(f"{running.dashboard}/#/{place}", wait_until="domcontentloaded", timeout=120_000)
                page.wait_for_timeout(12_000)
                page.screenshot(path=out / f"{name}.png", full_page=True)
            page = browser.new_page(viewport=WIDE)
            page.goto(f"{tracking}/#/experiments/1/runs", wait_until="domcontentloaded", timeout=120_000)
            page.wait_for_timeout(20_000)
            page.screenshot(path=out / "mlflow-experiment.png")
        finally:
            browser.close()


def _token(running: Head) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {running.token}"}


if __name__ == "__main__":
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    code = main(Path(sys.argv[1]))
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
