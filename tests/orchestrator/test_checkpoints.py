"""A checkpoint is read back whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.checkpoints import MANIFEST, MARK, Checkpoint, CheckpointStore
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

    def latest_step(self) -> int | None:
        found = self.latest()
        return None if found is None else found.step

    def path(self, step: int, name: str) -> str:
        return f"trials/k/checkpoints/{step:08d}/{name}"


@pytest.fixture
def bench(storage: Storage, tmp_path: Path) -> Bench:
    return Bench(storage, tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Bench:
    """On local disk only: what does not depend on the kind of storage."""
    return Bench(Storage(str(tmp_path / "storage")), tmp_path)


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
    lost = "no manifest.json: its upload has not ended, or the file was lost"
    assert bench.warnings == [f"checkpoint 20 of trial k is incomplete ({lost}); checkpoint 10 is taken instead"]
    # It may still be on its way, so it bears no mark.
    assert not bench.store.is_marked("00000020")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("state.bin", b"state 2x", "the sha256 of state.bin differs"),
        ("state.bin", b"stat", "state.bin has 4 bytes instead of 8"),
        ("deep/more.bin", None, "deep/more.bin is missing"),
        (MANIFEST, b"{", "manifest.json is no JSON"),
        (MANIFEST, b'{"format": 9}', "its manifest.json has format 9, not 1"),
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
    (warning,) = bench.warnings
    assert words in warning
    assert warning.startswith("checkpoint 20 of trial k is damaged (")
    assert warning.endswith("); checkpoint 10 is taken instead")


def test_a_damaged_one_is_looked_at_once_and_stays_until_the_trial_is_finished(disk: Bench) -> None:
    for step in (10, 20, 30):
        disk.save(step)
    storage = disk.store.storage
    storage.write_bytes(disk.path(30, "state.bin"), b"state 3x")
    assert disk.latest_step() == 20
    assert (disk.store.steps(), disk.store.latest_step()) == ((10, 20), 20)
    storage.write_bytes(disk.path(30, "state.bin"), b"state 30")  # nobody looks any more
    assert disk.latest_step() == 20
    assert "found before: the sha256 of state.bin differs" in disk.warnings[1]
    disk.save(40)
    disk.store.prune()
    assert storage.list("trials/k/checkpoints") == ["00000020", "00000030", "00000040"]
    storage.write_bytes(disk.path(50, "state.bin"), b"half")
    assert disk.store.sweep(finished=False) == ["00000050"]
    assert disk.store.sweep(finished=True) == ["00000030"]
    assert storage.list("trials/k/checkpoints") == ["00000020", "00000040"]


def test_when_all_are_damaged_that_is_said(disk: Bench) -> None:
    disk.save(10)
    disk.save(20)
    for step in (10, 20):
        disk.store.storage.delete(disk.path(step, "state.bin"))
    assert disk.latest() is None
    assert disk.warnings == [
        f"checkpoint {step} of trial k is damaged (state.bin is missing); no other is left" for step in (20, 10)
    ]


def test_a_step_saved_again_is_never_missing(disk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.save(10, text="first")
    uploaded = Storage.upload

    def watched(self: Storage, folder: Path, path: str) -> None:
        uploaded(self, folder, path)
        assert disk.store.steps() == (10,)
        found = disk.latest()
        assert found is not None
        assert (found.path / "state.bin").read_text() == "first"

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "upload", watched)
        disk.save(10, text="second")
    found = disk.latest()
    assert found is not None
    assert (found.path / "state.bin").read_text() == "second"
    assert disk.store.storage.list("trials/k/checkpoints") == ["00000010-001"]


def test_the_same_files_saved_again_are_not_sent_again(disk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.save(10)

    def never(*_: object) -> None:
        raise AssertionError("uploaded again")

    monkeypatch.setattr(Storage, "upload", never)
    disk.save(10, best=True)
    assert disk.store.storage.list("trials/k/checkpoints") == ["00000010"]
    found = disk.latest()
    assert found is not None
    assert found.best


def test_one_that_was_found_damaged_is_saved_anew(disk: Bench) -> None:
    disk.save(10)
    disk.store.mark("00000010", "rotten")
    disk.save(10)
    assert disk.store.storage.list("trials/k/checkpoints") == ["00000010", "00000010-001"]
    assert disk.store.steps() == (10,)
    assert disk.latest() is not None
    assert disk.warnings == []
    assert disk.store.storage.exists(disk.path(10, MARK))


def test_one_given_up_before_its_manifest_does_not_exist(disk: Bench, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "state.bin").write_text("x")
    with pytest.raises(StorageError, match="given up"):
        disk.store.save(tmp_path / "source", 10, {}, wanted=lambda: False)
    assert disk.store.steps() == ()


def test_a_storage_that_is_away_is_not_a_damaged_checkpoint(
    s3_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(s3_storage, tmp_path)
    bench.save(10)
    bench.save(20)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9"):
        bench.latest()
    assert bench.warnings == []


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


def test_an_empty_folder_is_refused(disk: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="is empty; nothing was saved"):
        disk.store.save(tmp_path / "empty", 1, {})
