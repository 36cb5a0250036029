"""A gang goes on from one checkpoint, whichever worker finds its copy damaged and however long the storage is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.checkpoints import Checkpoint, CheckpointStore
from orchestrator.errors import StorageError
from orchestrator.patience import duration, patiently
from orchestrator.resume import same_checkpoint
from orchestrator.storage import Storage


class Threads:
    """A gang of four threads on two nodes."""

    def __init__(self, rank: int, barrier: threading.Barrier, box: list[str]) -> None:
        self.rank, self.local_rank, self.node = rank, rank % 2, rank // 2
        self._barrier, self._box = barrier, box

    def barrier(self) -> None:
        self._barrier.wait(30)

    def broadcast(self, text: str) -> str:
        if self.rank == 0:
            self._box[0] = text
        self._barrier.wait(30)
        told = self._box[0]
        self._barrier.wait(30)
        return told


class Bench:
    """Saves checkpoints and lets a gang agree on one."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage, self.folder = storage, folder
        self.said: list[list[str]] = [[] for _ in range(4)]

    def save(self, *steps: int) -> None:
        for step in steps:
            source = self.folder / f"source-{step}"
            source.mkdir()
            (source / "state.bin").write_text(f"state {step}")
            CheckpointStore(self.storage, "k").save(source, step, {})

    def agree(self) -> list[Checkpoint | None]:
        barrier, box = threading.Barrier(4), [""]

        def one(rank: int) -> Checkpoint | None:
            say = self.said[rank].append
            store = CheckpointStore(self.storage, "k", warn=say)
            return same_checkpoint(store, self.folder / f"rank{rank}", Threads(rank, barrier, box), say=say)

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, range(4)))


def _states(found: list[Checkpoint | None]) -> list[str]:
    return [(one.path / "state.bin").read_text() for one in found if one is not None]


def test_all_take_the_newest_and_each_has_its_own_folder(storage: Storage, tmp_path: Path) -> None:
    bench = Bench(storage, tmp_path)
    assert bench.agree() == [None] * 4
    bench.save(10, 20)
    found = bench.agree()
    assert _states(found) == ["state 20"] * 4
    assert len({one.path for one in found if one is not None}) == 4
    assert bench.said == [[]] * 4


def test_a_copy_that_is_damaged_on_one_node_makes_all_fall_back(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(storage, tmp_path)
    bench.save(10, 20)
    downloaded = Storage.download
    fetched: list[str] = []

    def rotten(self: Storage, path: str, folder: Path) -> None:
        """The second node's disk turns a bit of whatever it reads of step 20."""
        fetched.append(threading.current_thread().name)
        downloaded(self, path, folder)
        if path.endswith("20") and len(set(fetched)) > 1:
            (folder / "state.bin").unlink()
            (folder / "state.bin").write_text("state 2?")

    monkeypatch.setattr(Storage, "download", rotten)
    assert _states(bench.agree()) == ["state 10"] * 4
    assert len(set(fetched)) == 2  # one worker per node
    assert "the sha256 of state.bin differs" in bench.said[2][0]
    assert "checkpoint 20 of trial k is damaged (found before:" in bench.said[0][0]
    assert bench.said[0][0].endswith("checkpoint 10 is taken instead")


def _failing(times: int) -> Callable[[], str]:
    left = iter(range(times))

    def job() -> str:
        if next(left, None) is not None:
            raise StorageError("cannot read s3://b/x: it is away")
        return "there"

    return job


def test_patience_waits_says_so_twice_and_ends() -> None:
    said: list[str] = []
    assert patiently("worker 0", _failing(3), say=said.append, seconds=60, pause=0.01) == "there"
    assert len(said) == 2
    assert said[0] == "worker 0 waits up to 1 min for the storage: cannot read s3://b/x: it is away"
    assert said[1].startswith("worker 0 goes on: the storage was away for 0.")
    with pytest.raises(StorageError, match=r"worker 0 waited 0\.\d s for the storage in vain: cannot read"):
        patiently("worker 0", _failing(1000), say=said.append, seconds=0.1, pause=0.01)


def test_patience_is_not_wasted_on_what_does_not_mend(s3_storage: Storage) -> None:
    said: list[str] = []
    gone = Storage("s3://no-such-bucket-of-ours/x")
    with pytest.raises(StorageError, match="does not exist"):
        patiently("worker 0", lambda: gone.read_bytes("y"), say=said.append, seconds=60)
    assert said == []


def test_durations_read_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.25, 12.3, 60, 1800, 3725)] == [
        "0.2 s", "12 s", "1 min", "30 min", "1 h 2 min",
    ]  # fmt: skip
