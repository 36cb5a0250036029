"""How long preparing takes for whoever converts, and opening a data set in S3 with a cold and a warm cache.

    python -m tests.integration.preparing [IMAGES]

Prints seconds of preparing IMAGES drawn Cityscapes images of 512x1024 by one thread, two threads, two processes and
two Ray tasks, whether all gave the same files, then seconds of four processes that open the data set at once from an
S3 API on loopback and the requests per shard that they made, and seconds with what is then in the cache.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from hrnet.data.location import upload
from hrnet.data.prepare.convert import Threads, Workers
from hrnet.data.prepare.run import prepare
from hrnet.data.shards import MANIFEST, open_dataset
from hrnet.data.synthetic import synthesise
from orchestrator.tasks import tasks
from tests.orchestrator.s3 import AtomicS3


class Processes(ProcessPoolExecutor):
    """Processes of this machine as workers."""

    load = 1 << 24

    def __init__(self, at_once: int) -> None:
        super().__init__(at_once, mp_context=multiprocessing.get_context("spawn"))
        self.at_once = at_once


def main(images: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        synthesise("cityscapes", folder / "raw", train=images, val=2, size=(512, 1024), seed=0)

        def timed(name: str, workers: Workers) -> None:
            began = time.perf_counter()
            prepare(folder / "raw", folder / name, dataset="cityscapes", partial=True, elsewhere=workers)
            seconds = time.perf_counter() - began
            print(f"{name:12} {seconds:6.2f} s, {images / seconds:5.1f} images/s, files {_digest(folder / name)}")

        for name, make in {"1 thread": (Threads, 1), "2 threads": (Threads, 2), "2 processes": (Processes, 2)}.items():
            with make[0](make[1]) as workers:
                # Their start is not what is measured.
                for call in [workers.submit(_start) for _ in range(make[1])]:
                    call.result()
                timed(name, workers)
        with tasks("local") as cluster:
            cluster.at_once = 2
            for task in [cluster.submit(_start) for _ in range(2)]:
                task.result()
            timed("2 Ray tasks", cluster)
        _open_at_once(folder / "1 thread", folder / "cache")


def _start() -> None:
    """Let another process begin its first call meanwhile."""
    time.sleep(2.0)


def _digest(folder: Path) -> str:
    files = sorted(folder.iterdir())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()[:12]


def _open_at_once(local: Path, cache: Path) -> None:
    gets: Counter[tuple[str, str]] = Counter()

    def count(environ: Any) -> None:
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".parquet"):
            gets[Path(environ["PATH_INFO"]).name, environ.get("HTTP_RANGE", "")] += 1

    server = AtomicS3(before=count)
    os.environ |= {
        "AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1", "HRGRID_CACHE": str(cache),
    }  # fmt: skip
    boto3.client("s3").create_bucket(Bucket="data")
    upload(local, "s3://data/set", last=MANIFEST, progress=lambda *_: None)
    with Processes(4) as processes:
        for call in [processes.submit(_start) for _ in range(4)]:
            call.result()
        for state in ("cold", "warm"):
            gets.clear()
            began = time.perf_counter()
            for call in [processes.submit(_fetch, "s3://data/set") for _ in range(4)]:
                call.result()
            seconds = time.perf_counter() - began
            size = sum(file.stat().st_size for file in local.glob("train-*.parquet")) / 1e6
            twice = sum(times - 1 for times in gets.values())
            requests = (
                f"{len(gets)} ranges of {len({name for name, _ in gets})} shards asked for, {twice} more than once"
            )
            print(f"{state} cache, 4 processes at once: {seconds:.2f} s for {size:.0f} MB; {requests}")
    server.stop()


def _fetch(uri: str) -> None:
    open_dataset(uri).split("train").fetch()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 48)
