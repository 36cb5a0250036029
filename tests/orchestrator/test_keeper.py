"""Checkpoints reach storage while training goes on; a storage that stays away ends the training with a sentence."""

from __future__ import annotations

import logging
import re
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.background import Courier
from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import LeaseLostError, StorageError
from orchestrator.keeper import Keeper
from orchestrator.storage import Storage


def _state(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "state.txt").write_text(text) and None


def _keeper(folder: Path) -> tuple[Keeper, CheckpointStore]:
    store = CheckpointStore(Storage(str(folder / "results")), "k" * 16)
    return Keeper(store, {"host": "here"}, pause=0.01), store


def test_what_is_taken_can_be_downloaded_after_finish(tmp_path: Path) -> None:
    keeper, store = _keeper(tmp_path)
    keeper.take(_state("two"), 2, {"val/mIoU": 1.0}, best=True)
    keeper.finish()
    keeper.take(_state("four"), 4, {"val/mIoU": 0.5}, best=False, info={"unsent": [1]})
    keeper.finish()
    keeper.close()
    last, best = store.latest(tmp_path / "last"), store.best(tmp_path / "best")
    assert last is not None
    assert best is not None
    assert (last.step, (last.path / "state.txt").read_text(), last.info) == (
        4,
        "four",
        {"host": "here", "unsent": [1]},
    )
    assert (best.step, best.metrics, best.info) == (2, {"val/mIoU": 1.0}, {"host": "here"})


def test_a_slow_storage_makes_nobody_wait_and_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    keeper, store = _keeper(tmp_path)
    gate, saved = threading.Event(), CheckpointStore.save

    class Slow(CheckpointStore):
        def save(self, *args: object, **kwargs: object) -> None:
            gate.wait(10)
            saved(self, *args, **kwargs)  # type: ignore[arg-type]

    keeper._store = Slow(store.storage, store.key)
    began = time.monotonic()
    for step in range(1, 8):
        keeper.take(_state(str(step)), step, {}, best=step == 3)
        if step == 1:
            time.sleep(0.2)  # the first is under way
    assert time.monotonic() - began < 2
    gate.set()
    keeper.finish()
    keeper.close()
    # 2 gave way to 3; 3 was the best; 4, 5 and 6 gave way to 7. Pruning keeps the last two and the best.
    assert store.steps() == (3, 7)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_training_goes_on_while_s3_is_away_and_the_newest_and_the_best_are_stored_when_it_is_back(
    s3_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator")
    store = CheckpointStore(s3_storage, "k")
    keeper = Keeper(store, {}, pause=0.05)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        began = time.monotonic()
        for step in range(1, 9):
            keeper.take(_state(f"{step}" * 1000), step, {}, best=step == 3)
            time.sleep(0.1)
        took = time.monotonic() - began
        while "could not be stored" not in caplog.text and time.monotonic() - began < 60:
            time.sleep(0.05)
        # What is being uploaded, the newest, the newest best: never more.
        assert _bytes_in(keeper._scratch.path) <= 3000
    assert took < 5
    keeper.finish()
    keeper.close()
    assert store.steps() == (3, 8)
    said = [record.getMessage() for record in caplog.records if record.name == "orchestrator.keeper"]
    assert len(said) == 2
    assert said[0].startswith("checkpoint 1 of trial k could not be stored: cannot list s3://")
    assert said[0].endswith("; the training goes on, and ends if no checkpoint can be stored for 30 min")
    assert re.fullmatch(r"checkpoint [38] of trial k is stored, after [0-9.]+ s without storage", said[1])
    assert not keeper._scratch.path.exists()


def test_a_storage_that_stays_away_ends_the_training_with_one_sentence(tmp_path: Path) -> None:
    store = CheckpointStore(Storage(str(tmp_path / "results")), "k")
    keeper = Keeper(store, {}, pause=0.01, patience=0.3)
    keeper.take(_state("ok"), 1, {}, best=True)
    keeper.finish()
    shutil.move(tmp_path / "results", tmp_path / "aside")
    (tmp_path / "results").write_text("a file where the folder was")
    keeper.take(_state("lost"), 2, {}, best=False)
    words = r"trial k: no checkpoint could be stored for 0\.\d s: cannot .*results"
    with pytest.raises(StorageError, match=words):
        keeper.finish()
    with pytest.raises(StorageError, match=words):
        keeper.take(_state("no"), 3, {}, best=False)
    keeper.close()
    (tmp_path / "results").unlink()
    shutil.move(tmp_path / "aside", tmp_path / "results")
    assert store.steps() == (1,)


def test_an_upload_that_hangs_is_given_up_and_its_checkpoint_never_completed(
    s3_storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(s3_storage, "k")
    keeper = Keeper(store, {}, pause=0.05, attempt=0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        keeper.take(_state("one"), 1, {}, best=True)
        deadline = time.monotonic() + 30
        while "did not answer for 0.5 s" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "checkpoint 1 of trial k could not be stored: the storage s3://" in caplog.text
    keeper._attempt_seconds = 30
    keeper.finish()
    keeper.close()
    assert store.steps() == (1,)


def test_a_lost_lease_ends_it_at_once(tmp_path: Path) -> None:
    def guard() -> None:
        raise LeaseLostError("trial k: another launch has taken it over")

    keeper = Keeper(CheckpointStore(Storage(str(tmp_path)), "k", guard=guard), {})
    keeper.take(_state("one"), 1, {}, best=True)
    with pytest.raises(LeaseLostError):
        keeper.finish()
    with pytest.raises(LeaseLostError):
        keeper.take(_state("two"), 2, {}, best=True)
    keeper.close()
    assert not list(tmp_path.rglob("*.txt"))


def _too_large(folder: Path) -> None:
    """Write more than this process may write into one file, which is as near as a test may come to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        (folder / "state.txt").write_text("x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_state_that_does_not_fit_is_left_out_and_the_next_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(Storage(str(tmp_path)), "k")
    keeper = Keeper(store, {}, patience=0.2)
    keeper.take(_state("x" * 500), 1, {}, best=True)
    keeper.take(_too_large, 2, {}, best=True)
    assert len(list(keeper._scratch.path.iterdir())) <= 1
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(
        f"checkpoint 2 of trial k is left out: the disk of {tempfile.gettempdir()} is full: a state"
    )
    assert " MB are free; the training goes on" in warning
    keeper.take(_state("x" * 600), 3, {}, best=False)
    keeper.finish()
    assert store.steps() == (1, 3)
    keeper.take(_too_large, 4, {}, best=True)
    with pytest.raises(StorageError, match="the last state could not be saved: the disk of"):
        keeper.finish()
    time.sleep(0.25)
    with pytest.raises(StorageError, match=r"no state could be saved for 0\.\d s: the disk of"):
        keeper.take(_too_large, 5, {}, best=True)
    keeper.close()
    assert store.steps() == (1, 3)


def test_another_error_of_the_state_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    keeper = Keeper(CheckpointStore(Storage(str(tmp_path)), "k"), {})

    def broken(folder: Path) -> None:
        raise KeyError("optimizer")

    with pytest.raises(KeyError, match="optimizer"):
        keeper.take(broken, 1, {}, best=True)
    keeper.close()


def test_a_courier_tries_again_keeps_the_order_and_survives_a_hopeless_job() -> None:
    done: list[str] = []
    courier = Courier("test", attempts=3, pause=0.01)
    failures = iter([OSError("away"), OSError("away")])

    def at_third() -> None:
        error = next(failures, None)
        if error is not None:
            raise error
        done.append("third")

    def hopeless() -> None:
        raise OSError("never")

    courier.send("hopeless", hopeless)
    courier.send("at third", at_third)
    courier.send("last", lambda: done.append("last"))
    assert courier.close(10)
    assert done == ["third", "last"]
