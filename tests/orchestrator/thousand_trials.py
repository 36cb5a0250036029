"""How long the ledger takes to list and read 1,000 trials: `python -m tests.orchestrator.thousand_trials`.

On disk and behind an S3 API on loopback (whose single Python process is most of what is measured there); half of the
trials are finished, the others were interrupted and have checkpoints.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.ledger import Entry, Ledger
from orchestrator.report import collect
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.takeover import free_dead_trials
from tests.integration.chaos.twice import s3
from tests.orchestrator.fake import FakeWorkload


def fill(storage: Storage, count: int) -> list[str]:
    """Write the documents of trials; returns their keys."""
    workload, ledger = FakeWorkload(), Ledger(storage)
    cell = workload.cells()[0]
    spec = workload.resolve(cell, {}, seed=0, data="somewhere")
    keys = [f"{number:016x}" for number in range(count)]

    def one(key: str) -> None:
        lease = ledger.claim(key, "gone:1:1")
        ledger.write_spec(key, spec)
        ledger.write_progress(key, {"step": 5, "total": 8, "metrics": {"train/loss": 1.0}, "updated": 1.0})
        storage.write_json(f"trials/{key}/checkpoints/00000004/manifest.json", {})
        storage.write_json(f"trials/{key}/checkpoints/00000006/model", {})
        if int(key, 16) % 2:
            ledger.write_result(key, {"state": "finished", "metrics": {"val/mIoU": 50.0}})
        ledger.release(key, "gone:1:1", lease or 1)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, keys))
    entries = [Entry(cell=cell.name, key=key, facets=dict(cell.facets), seed=n) for n, key in enumerate(keys)]
    for start in range(0, count, 100):
        ledger.add_benchmark("b", entries[start : start + 100])
    return keys


def measure(storage: Storage, count: int) -> None:
    """Print the seconds of what commands do with the ledger."""
    keys = fill(storage, count)
    ledger, places = Ledger(storage), make_settings(storage=storage.uri, tracking="http://localhost", environment={})
    steps: dict[str, Callable[[], object]] = {
        "the benchmark's list (10 documents)": lambda: ledger.benchmark("b"),
        "all records (what status reads)": lambda: ledger.trials(keys),
        "free_dead_trials (at each launch)": lambda: free_dead_trials(places, keys),
        "the rows of the report": lambda: collect(ledger, "b", FakeWorkload(), drawn=True),
    }
    for name, step in steps.items():
        began = time.monotonic()
        step()
        print(f"  {name}: {time.monotonic() - began:.2f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    count = parser.parse_args().trials
    folder = Path(tempfile.mkdtemp(prefix="hrgrid-thousand-"))
    try:
        print(f"{count} trials on disk")
        measure(Storage(f"{folder}/storage"), count)
        with s3(folder) as environment:
            os.environ.update(environment)
            import boto3

            bucket = f"bucket-{uuid.uuid4().hex[:8]}"
            boto3.client("s3").create_bucket(Bucket=bucket)
            print(f"{count} trials behind an S3 API")
            measure(Storage(f"s3://{bucket}/storage"), count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
