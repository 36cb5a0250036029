"""How long the relaunch of a finished grid takes: `python -m tests.integration.chaos.relaunch [--storage URI]`.

Prepares a storage that says that all 45 published cells are finished (their data sets are drawn, their scores made up;
every document is there that a training leaves, but nothing was trained), then launches the grid again as a command in
a process of its own, several times, and prints the seconds of each, what it imported and the processes it started.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from jobs._smoke import draw_missing
from jobs._wiring import HrnetWorkload
from orchestrator.grid import Trial, expand
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage
from tests.integration.children import environment

BENCHMARK: Final = "relaunched"
HEAVY: Final = ("torch", "ray", "mlflow", "cv2", "boto3", "pyarrow")
LIMIT_SECONDS: Final = 3.0

_CODE: Final = """
import sys, time
began = time.monotonic()
from jobs.cli import main
code = main({words!r})
loaded = [name for name in {heavy!r} if name in sys.modules]
print("RELAUNCHED", code, f"{{time.monotonic() - began:.3f}}", *loaded)
"""


def prepare(storage: Storage, data: str) -> list[Trial]:
    """Write what a finished launch of all 45 cells leaves; returns the trials."""
    workload = HrnetWorkload(data=data)
    draw_missing(data, tuple(dict.fromkeys(cell.facets["dataset"] for cell in HrnetWorkload().cells())))
    trials = expand(workload, workload.cells(), {}, (0,), data)
    ledger = Ledger(storage)
    for number, trial in enumerate(trials):
        _finish(ledger, trial, number)
    ledger.add_benchmark(
        BENCHMARK,
        [Entry(cell=t.spec.cell.name, key=t.key, facets=dict(t.spec.cell.facets), seed=t.spec.seed) for t in trials],
    )
    return list(trials)


def _finish(ledger: Ledger, trial: Trial, number: int) -> None:
    key, name = trial.key, trial.spec.cell.name
    lease = ledger.claim(key, "made:1:1")
    steps = trial.estimate.iterations
    metrics = {"val/mIoU": 60.0 + number / 4, "val/mIoU_ms_flip": 61.0 + number / 4, "train/images_per_s": 5.0,
               "speed/fps": 20.0, "speed/train_mem_gb": 3.0, "train/loss": 0.5}  # fmt: skip
    ledger.write_spec(key, trial.spec)
    progress = {"state": "running", "phase": "evaluated", "step": steps, "total": steps, "metrics": metrics,
                "cell": name, "run_id": f"{number:032x}", "workers": 4, "host": "made", "pid": 1,
                "owner": "made:1:1", "device": "made up"}  # fmt: skip
    ledger.write_progress(key, progress, lease=lease)
    for picture in range(4):
        ledger.write_picture(key, f"{picture}.jpg", b"\xff\xd8 no picture" * 1500)
    result = {"state": "finished", "cell": name, "metrics": metrics, "run_id": f"{number:032x}", "error": None,
              "seconds": 3600.0, "workers": 4, "host": "made", "owner": "made:1:1",
              "not_comparable": list(trial.spec.not_comparable), "provenance": {}, "untracked": None}  # fmt: skip
    ledger.write_result(key, result, lease=lease)
    assert lease is not None
    ledger.release(key, "made:1:1", lease)


def relaunch(words: Sequence[str], home: Path) -> tuple[float, float, str, set[str]]:
    """Run one launch; returns seconds and CPU seconds of the process, its last line, and the processes it started."""
    code = _CODE.format(words=list(words), heavy=HEAVY)
    began, used = time.monotonic(), _cpu_of_children()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(home),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen: set[str] = set()
    while process.poll() is None:
        try:
            seen |= {child.name() for child in psutil.Process(process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    seconds = time.monotonic() - began
    out, _ = process.communicate()
    if process.returncode or "RELAUNCHED 0" not in out:
        raise SystemExit(f"the relaunch failed:\n{out}")
    return seconds, _cpu_of_children() - used, out.splitlines()[-1], seen


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="default: a temporary folder, deleted at the end")
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hrgrid-relaunch-"))
    try:
        storage = Storage(arguments.storage or f"{folder}/results")
        trials = prepare(storage, f"{folder}/data")
        words = ["launch", "--data", f"{folder}/data", "--storage", storage.uri, "--name", BENCHMARK, "--yes",
                 "--tracking", f"sqlite:///{folder}/mlflow.db"]  # fmt: skip
        print(f"{len(trials)} cells finished in {storage.uri} (documents made, nothing trained)")
        ended = [relaunch(words, folder / "home") for _ in range(arguments.times)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for seconds, cpu, line, seen in ended:
        names = ", ".join(sorted(seen)) or "none"
        print(f"  {seconds:.2f} s as a process, {cpu:.2f} s of CPU; {line}; processes started: {names}")
    median = statistics.median(seconds for seconds, *_ in ended)
    cpu, load = statistics.median(cpu for _, cpu, *_ in ended), os.getloadavg()[0]
    print(
        f"median {median:.2f} s, of CPU {cpu:.2f} s, with a load of {load:.1f} on {os.cpu_count()} cores; the aim is"
    )
    print(f"{LIMIT_SECONDS:g} s on an idle machine")
    loaded = {word for *_, line, _ in ended for word in line.split()[3:]}
    started = any("ray" in name.lower() or "gcs" in name.lower() for *_, seen in ended for name in seen)
    print(f"imported of {', '.join(HEAVY)}: {', '.join(sorted(loaded)) or 'none'}; Ray started: {started}")
    return int(bool(loaded & {"torch", "ray", "mlflow"}) or started or median > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
