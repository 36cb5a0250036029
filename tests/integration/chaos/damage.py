"""What a user reads when checkpoints are damaged or a disk is full: `python -m tests.integration.chaos.damage`.

Real trainings of the small workload through keeper, storage and resume, on disk and on an S3 API, without Ray.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator.checkpoints import MANIFEST, CheckpointStore
from orchestrator.errors import StorageError
from orchestrator.keeper import Keeper
from orchestrator.resume import same_checkpoint
from orchestrator.storage import Storage
from orchestrator.workload import Spec
from tests.orchestrator.fake import FakeWorkload

KEY: Final = "0123456789abcdef"
STEPS: Final = 16
PAYLOAD: Final = 1_500_000
"""Bytes of a state on the small disk."""
DISK: Final = 8_000_000
"""Bytes of the small disk."""


class Alone:
    """A gang of one."""

    rank = local_rank = node = 0

    def barrier(self) -> None:
        """Nobody else comes."""

    def broadcast(self, text: str) -> str:
        """Return the text."""
        return text


def spec() -> Spec:
    """The small workload's shortest cell, with 16 steps and a checkpoint every second one."""
    workload = FakeWorkload()
    return workload.resolve(workload.cells()[0], {"steps": str(STEPS)}, seed=0, data=None)


def train(
    store: CheckpointStore,
    until: int,
    payload: int = 0,
    before: Callable[[int], None] = lambda _: None,
    **options: float,
) -> tuple[int, int]:
    """Train up to a step, from the newest sound checkpoint; return the first and the last step that was computed."""
    with tempfile.TemporaryDirectory() as folder:
        resume = same_checkpoint(store, Path(folder), Alone(), say=said)
        keeper = Keeper(store, {}, **options)  # type: ignore[arg-type]
        steps = []
        try:
            for event in FakeWorkload().train(spec(), None if resume is None else resume.path, cpus=1):
                if event.kind == "step" or event.step > until:
                    continue
                steps.append(event.step)
                before(event.step)
                if event.save is not None:
                    keeper.take(padded(event.save, payload), event.step, {}, best=event.best)
                    keeper.finish()
            return (0 if resume is None else resume.step) + 1, steps[-1]
        finally:
            keeper.close()


def padded(save: Callable[[Path], None], payload: int) -> Callable[[Path], None]:
    """Make a state as large as the disk is to be filled with."""

    def saved(folder: Path) -> None:
        save(folder)
        if payload:
            (folder / "payload.bin").write_bytes(os.urandom(payload))

    return saved


def said(text: str) -> None:
    """Print what the log of the trial says."""
    print(f"    | {text}")


def damages(storage: Storage) -> None:
    """Damage the newest checkpoint in each way, then all of them, and go on each time."""
    ways: dict[str, Callable[[Storage, str], None]] = {
        "truncated": lambda place, path: place.write_bytes(
            f"{path}/state.json", place.read_bytes(f"{path}/state.json")[:7]
        ),
        "one bit flipped": lambda place, path: place.write_bytes(
            f"{path}/state.json", flipped(place.read_bytes(f"{path}/state.json"))
        ),
        "file missing": lambda place, path: place.delete(f"{path}/state.json"),
        "half uploaded": lambda place, path: place.delete(f"{path}/{MANIFEST}"),
        "manifest damaged": lambda place, path: place.write_bytes(f"{path}/{MANIFEST}", b'{"format": 1, "fi'),
    }
    for number, (name, damage) in enumerate(ways.items()):
        store = CheckpointStore(storage, f"{KEY}{number}", warn=said)
        train(store, 8)
        print(f"  {name}: checkpoints {store.steps()}, of which 8 is damaged now")
        damage(storage, f"trials/{store.key}/checkpoints/00000008")
        first, last = train(store, STEPS)
        print(f"    trained again from step {first} to {last}; checkpoints {store.steps()}")
        require(first == 7 and last == STEPS)
    store = CheckpointStore(storage, f"{KEY}all", warn=said)
    train(store, 8)
    print(f"  all truncated: checkpoints {store.steps()}")
    for step in store.steps():
        ways["truncated"](storage, f"trials/{store.key}/checkpoints/{step:08d}")
    first, last = train(store, STEPS)
    print(f"    trained from step {first} to {last}")
    require(first == 1 and last == STEPS)


def flipped(content: bytes) -> bytes:
    """Return the content with one bit in its middle changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def require(holds: bool) -> None:
    """Fail the program, not only its reader."""
    if not holds:
        raise SystemExit("  NOT AS IT SHOULD BE")


def full_disk(which: str, disk: Path, folder: Path) -> None:
    """Fill the disk in the middle of a training that uses it for its states or as its storage."""
    store = CheckpointStore(Storage(str(disk if which == "storage" else folder)), KEY, warn=said)
    filler = disk / "filler"

    def fill(step: int) -> None:
        if step == 6 and not filler.exists():
            said(f"-- step 6: another program fills the disk, {free(disk) / 1e6:.1f} MB were free")
            with filler.open("wb", buffering=0) as stream:
                stream.write(bytes(free(disk) - 200_000))
        if step == 10:
            said("-- step 10: it is gone again")
            filler.unlink(missing_ok=True)

    def steps() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            sound = [store.fetch(f"{step:08d}", Path(place)).step for step in store.steps()]
        partial = [str(file) for file in [*disk.rglob(".tmp-*"), *disk.rglob("*.partial")]]
        said(f"-- checkpoints that verify: {sound}; partial files: {partial}")
        require(bool(sound) and not partial)

    if which == "states":
        keeper = Keeper(store, {})
        for event in FakeWorkload().train(spec(), None, cpus=1):
            if event.save is not None:
                fill(event.step)
                keeper.take(padded(event.save, PAYLOAD), event.step, {}, best=event.best)
                if event.step == 4:
                    keeper.finish()
                if event.step in (4, 8):
                    steps()
        keeper.finish()
        keeper.close()
        steps()
        require(store.latest_step() == STEPS)
        return
    try:
        train(store, STEPS, PAYLOAD, before=fill, patience=3.0, pause=0.5)
    except StorageError as error:
        said(f"-- the training ended: {error}")
    steps()
    filler.unlink(missing_ok=True)
    first, last = train(store, STEPS, PAYLOAD)
    said(f"-- the disk has room again; the next launch trained from step {first} to {last}")
    steps()
    require(last == STEPS and first > 1)


def free(disk: Path) -> int:
    """Bytes that are free on a disk."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def on_small_disk(which: str) -> None:
    """Run `full_disk` in a process whose own mount namespace has a disk of eight megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        disk, rest = Path(folder, "disk"), Path(folder, "rest")
        disk.mkdir()
        rest.mkdir()
        mount = f'mount -t tmpfs -o size={DISK} tmpfs "{disk}" && exec "$@"'
        command = [sys.executable, "-m", "tests.integration.chaos.damage", "--full", which, str(disk), str(rest)]
        environment = {**os.environ, "TMPDIR": str(disk if which == "states" else rest)}
        done = subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", *command], env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"full disk of {which}: exit code {done.returncode} (mounting needs root on Linux)")


def main() -> None:
    """Print all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", nargs=3, metavar=("WHICH", "DISK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="    | %(message)s", stream=sys.stdout)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    if arguments.full:
        which, disk, folder = arguments.full
        full_disk(which, Path(disk), Path(folder))
        return
    with tempfile.TemporaryDirectory() as place:
        print("damaged checkpoints, on disk", flush=True)
        damages(Storage(place))
    s3_damages()
    for which in ("states", "storage"):
        print(f"disk full, where {'states are saved first' if which == 'states' else 'the storage is'}", flush=True)
        on_small_disk(which)


def s3_damages() -> None:
    """The same on an S3 API."""
    from tests.orchestrator.s3 import AtomicS3

    server = AtomicS3()
    os.environ |= {
        "AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    import boto3

    boto3.client("s3").create_bucket(Bucket="damage")
    print("damaged checkpoints, on S3", flush=True)
    damages(Storage("s3://damage/results"))
    server.stop()


if __name__ == "__main__":
    main()
