"""Two launches of the same grid at the same moment: `python -m tests.integration.chaos.twice`.

Each is a process of its own with a Ray of its own, as on two machines that share a storage: a folder, then an S3 API
in a process of its own. Prints for every cell how many leases were given and how often its training began; each must
be one. Before that, processes race for leases alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from tests.integration import children

PROCESSES: Final = 8
KEYS: Final = 50
CELLS: Final = ("thin-add-short", "thick-add-short", "thin-sort-short", "thick-sort-short")

_RACER: Final = """
import sys, time
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
ledger, owner = Ledger(Storage(sys.argv[1])), sys.argv[2]
ledger.storage.exists("warm")
print("ready", flush=True)
sys.stdin.readline()
print(*(key for key in range({keys}) if ledger.claim(f"race-{{key}}", owner) is not None))
"""

_SERVER: Final = """
import sys
from tests.orchestrator.s3 import AtomicS3
print(AtomicS3().endpoint, flush=True)
sys.stdin.readline()
"""


def race(uri: str, environment: Mapping[str, str], processes: int = PROCESSES, keys: int = KEYS) -> Counter[str]:
    """Let processes claim the same keys at the same moment; returns how many got each."""
    command = [sys.executable, "-c", _RACER.format(keys=keys), uri]
    racers = [
        subprocess.Popen([*command, f"racer-{number}"], env=dict(environment), text=True, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
        for number in range(processes)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return Counter(key for racer in racers for key in racer.communicate()[0].split())


def launches(uri: str, tracking: str, folder: Path, environment: Mapping[str, str]) -> tuple[bool, list[str]]:
    """Launch a grid twice at the same moment; returns whether every cell was trained once, and what was seen."""
    words = [uri, *CELLS, "--slots", "2", "--set", "sleep=0.2", "--tracking", tracking]
    pair = []
    for name in ("first", "second"):
        home = folder / name / "home"
        home.mkdir(parents=True)
        pair.append(children.start(words, home, **environment))
    ended = [children.finish(launch, timeout=600) for launch in pair]
    ledger = Ledger(Storage(uri))
    good, lines = True, []
    for entry in ledger.benchmark("bench"):
        leases = len(ledger.storage.list(f"trials/{entry.key}/leases"))
        log = (ledger.storage.find_bytes(f"trials/{entry.key}/logs/rank0.log") or b"").decode()
        begun, state = log.count("worker 0 of"), ledger.state(entry.key)
        said = [f"{outcome['state']}: {outcome['error']}" if outcome["error"] else outcome["state"]
                for outcome in (launch["outcomes"][entry.cell] for launch in ended)]  # fmt: skip
        good &= begun == 1 and state == "finished" and sum(text == "finished" for text in said) == 1
        lines.append(f"  {entry.cell:18} {state}, trainings begun: {begun}, leases: {leases} | {' | '.join(said)}")
    return good and len(lines) == len(CELLS), lines


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 API in a process of its own; yields the environment of its clients."""
    command = [sys.executable, "-c", _SERVER]
    server = subprocess.Popen(
        command,
        env=children.environment(folder / "home-of-s3"),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        yield {
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        server.kill()
        server.communicate()


def _both(uri: str, tracking: str, folder: Path, environment: Mapping[str, str], *, train: bool) -> bool:
    began = time.monotonic()
    folder.mkdir(exist_ok=True)
    won = race(uri, children.environment(folder / "racers", **environment))
    good = won == Counter({str(key): 1 for key in range(KEYS)})
    print(f"{uri}: {PROCESSES} processes race for {KEYS} leases: {sum(won.values())} given, the most that one key was")
    print(f"  given: {max(won.values())}; {time.monotonic() - began:.1f} s with the start of the processes")
    if train:
        began = time.monotonic()
        once, lines = launches(uri, tracking, folder, environment)
        print(f"{uri}: two launches of {len(CELLS)} cells at the same moment, {time.monotonic() - began:.0f} s")
        print("\n".join(lines))
        good &= once
    print("each once" if good else "NOT each once", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--race-only", action="store_true", help="no trainings")
    train = not parser.parse_args().race_only
    folder = Path(tempfile.mkdtemp(prefix="hrgrid-twice-"))
    try:
        disk = f"{folder}/results"
        good = _both(disk, f"sqlite:///{folder}/disk.db", folder / "disk", {}, train=train)
        with s3(folder) as environment:
            os.environ.update(environment)
            import boto3

            bucket = f"bucket-{uuid.uuid4().hex[:8]}"
            boto3.client("s3").create_bucket(Bucket=bucket)
            good &= _both(
                f"s3://{bucket}/results", f"sqlite:///{folder}/s3.db", folder / "s3", environment, train=train
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
