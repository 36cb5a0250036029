"""Checkpoints reach storage while training goes on; a storage that stays away ends the training with a sentence."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.background import Courier
from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import StorageError
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


def test_three_lost_checkpoints_in_a_row_end_the_training(tmp_path: Path) -> None:
    keeper, _ = _keeper(tmp_path)
    keeper.take(_state("ok"), 1, {}, best=True)
    keeper.finish()
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "results").write_text("a file where the folder was")
    for step in (2, 3, 4):
        keeper.take(_state("lost"), step, {}, best=False)
        with pytest.raises(StorageError, match="could not be stored"):
            keeper.finish()
    with pytest.raises(StorageError, match="the last 3 checkpoints could not be stored"):
        keeper.take(_state("no"), 5, {}, best=False)
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
