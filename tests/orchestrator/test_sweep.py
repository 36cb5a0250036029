"""A sweep takes what dead processes left, never what a running trial writes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.sweep import UNFINISHED_SECONDS, sweep, sweep_trial


def _trial(storage: Storage, key: str, folder: Path) -> CheckpointStore:
    """One sound checkpoint, one damaged, one half uploaded."""
    store = CheckpointStore(storage, key)
    source = folder / f"source-{key}"
    source.mkdir()
    for step in (10, 20):
        (source / "state.bin").write_text(f"state {step}")
        store.save(source, step, {})
    store.mark("00000020", "rotten")
    storage.write_bytes(f"trials/{key}/checkpoints/00000030/state.bin", b"half")
    return store


def test_only_finished_trials_lose_their_damaged_and_running_ones_nothing(storage: Storage, tmp_path: Path) -> None:
    ledger = Ledger(storage)
    for key, state in (("done", "finished"), ("broken", "failed"), ("busy", "")):
        _trial(storage, key, tmp_path)
        ledger.write_progress(key, {"state": "running"})
        if state:
            time.sleep(0.01)
            ledger.write_result(key, {"state": state})
    swept = sweep(ledger, ["done", "broken", "busy", "never-seen"])
    left = {key: storage.list(f"trials/{key}/checkpoints") for key in ("done", "broken", "busy")}
    assert left == {
        "done": ["00000010"],
        "broken": ["00000010", "00000020"],
        "busy": ["00000010", "00000020", "00000030"],
    }
    ours = [sentence for sentence in swept if sentence.startswith("trial ")]
    assert len(ours) == 3
    assert ours[0] == "trial done: checkpoint 00000020 deleted, which was not complete or damaged"
    assert not [sentence for sentence in sweep(ledger, left) if sentence.startswith("trial ")]


def test_unfinished_writes_of_a_dead_writer_go(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    store = _trial(storage, "k", tmp_path)
    folder = tmp_path / "storage" / "trials" / "k" / "checkpoints" / "00000010"
    old, new = folder / ".tmp-old", folder / ".tmp-new"
    for file in (old, new):
        file.write_bytes(b"part")
    past = time.time() - UNFINISHED_SECONDS - 1
    os.utime(old, (past, past))
    sweep_trial(Ledger(storage), "k")
    assert (old.exists(), new.exists()) == (False, True)
    assert store.steps() == (10,)


def test_a_trial_whose_lease_is_held_is_left_alone_whatever_its_progress_says(
    storage: Storage, tmp_path: Path
) -> None:
    ledger = Ledger(storage)
    _trial(storage, "k", tmp_path)
    lease = ledger.claim("k", "elsewhere:1:1")
    ledger.write_progress("k", {"updated": ledger.clock() - 3600.0}, lease=lease)
    assert ledger.state("k") == "interrupted"
    assert sweep(ledger, ["k"]) == []
    assert lease is not None
    ledger.release("k", "elsewhere:1:1", lease)
    assert sweep(ledger, ["k"]) == ["trial k: checkpoint 00000030 deleted, which was not complete or damaged"]
