"""A checkpoint is read back whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.checkpoints import MANIFEST, Checkpoint, CheckpointStore
from orchestrator.errors import StorageError
from orchestrator.storage import Storage


class Bench:
    """A store with a writer of small checkpoints and a list of the warnings it gave."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.warnings: list[str] = []
        self.folder = folder
        self.store = CheckpointStore(storage, "k", warn=self.warnings.append)

    def save(self, step: int, *, best: bool = False, text: str = "") -> None:
        source = self.folder / f"source-{step}"
        (source / "deep").mkdir(parents=True, exist_ok=True)
        (source / "state.bin").write_text(text or f"state {step}")
        (source / "deep" / "more.bin").write_text(f"more {step}")
        self.store.save(source, step, {"val/mIoU": step / 10}, best=best, info={"attempt": 1})

    def latest(self) -> Checkpoint | None:
        return self.store.latest(self.folder / "down")

    def path(self, step: int, name: str) -> str:
        return f"trials/k/checkpoints/{step:08d}/{name}"


@pytest.fixture
def bench(storage: Storage, tmp_path: Path) -> Bench:
    return Bench(storage, tmp_path)


def test_comes_back_as_it_was_saved(bench: Bench) -> None:
    bench.save(10, best=True)
    bench.save(20)
    found = bench.latest()
    assert found is not None
    assert (found.step, found.metrics, found.best, found.info) == (20, {"val/mIoU": 2.0}, False, {"attempt": 1})
    assert (found.path / "state.bin").read_text() == "state 20"
    assert (found.path / "deep" / "more.bin").read_text() == "more 20"
    best = bench.store.best(bench.folder / "down")
    assert best is not None
    assert best.step == 10
    assert bench.warnings == []


def test_nothing_saved(bench: Bench) -> None:
    assert bench.latest() is None
    assert bench.store.best(bench.folder) is None
    assert bench.store.latest_step() is None
    assert bench.store.steps() == ()
    bench.store.prune()


def test_without_a_manifest_it_does_not_exist(bench: Bench) -> None:
    bench.save(10)
    bench.save(20)
    bench.store.storage.delete(bench.path(20, MANIFEST))
    assert bench.store.steps() == (10,)
    assert bench.store.latest_step() == 10
    found = bench.latest()
    assert found is not None
    assert found.step == 10
    assert bench.warnings == []


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("state.bin", b"state 2x", "the sha256 of state.bin differs"),
        ("state.bin", b"stat", "state.bin has 4 bytes instead of 8"),
        ("deep/more.bin", None, "deep/more.bin is missing"),
        (MANIFEST, b"{", "manifest.json is no JSON"),
        (MANIFEST, b'{"format": 9}', "its manifest has format 9, not 1"),
    ],
)
def test_a_damaged_one_falls_back(bench: Bench, file: str, content: bytes | None, words: str) -> None:
    bench.save(10)
    bench.save(20)
    storage = bench.store.storage
    if content is None:
        storage.delete(bench.path(20, file))
    else:
        storage.write_bytes(bench.path(20, file), content)
    found = bench.latest()
    assert found is not None
    assert found.step == 10
    assert len(bench.warnings) == 1
    assert words in bench.warnings[0]
    assert "checkpoint 20 of trial k is damaged" in bench.warnings[0]


def test_prune_keeps_the_last_two_and_the_best(bench: Bench) -> None:
    for step in (10, 20, 30, 40, 50):
        bench.save(step, best=step in (10, 20))
    bench.save(60)
    storage = bench.store.storage
    storage.delete(bench.path(30, MANIFEST))  # what a dead writer left
    storage.write_bytes(bench.path(70, "state.bin"), b"")  # what a running upload has written so far
    bench.store.prune()
    assert storage.list("trials/k/checkpoints") == ["00000020", "00000050", "00000060", "00000070"]
    assert bench.store.steps() == (20, 50, 60)


def test_a_step_saved_again_replaces_the_first(bench: Bench) -> None:
    bench.save(10, text="first")
    (bench.folder / "source-10" / "only-once.bin").write_text("")
    bench.save(10, text="second")
    (bench.folder / "source-10" / "only-once.bin").unlink()
    bench.save(10, text="third")
    found = bench.latest()
    assert found is not None
    assert (found.path / "state.bin").read_text() == "third"
    assert not (found.path / "only-once.bin").exists()


def test_an_empty_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="is empty; nothing was saved"):
        bench.store.save(tmp_path / "empty", 1, {})
