"""A worker's log: JSON lines and text, kept in storage over attempts, with what the packages say."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path

import pytest

from orchestrator.storage import Storage
from orchestrator.triallog import TrialLog, log_names, read_tail
from tests.orchestrator.fake import FakeEvent


def test_a_second_attempt_goes_on_in_the_same_log(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for attempt in (1, 2):
        log = TrialLog(storage, "key", 0)
        log.note(f"attempt {attempt}", pid=attempt)
        log.event(FakeEvent(kind="progress", step=5, total=10, metrics={"train/loss": 0.123456789}), "train")
        log.close()
    assert log_names(storage, "key") == ["rank0.jsonl", "rank0.log"]
    lines = [json.loads(line) for line in storage.read_bytes("trials/key/logs/rank0.jsonl").splitlines()]
    assert [line.get("text", line["kind"]) for line in lines] == ["attempt 1", "progress", "attempt 2", "progress"]
    assert lines[1]["metrics"] == {"train/loss": 0.123457}
    assert read_tail(storage, "key", 0, lines=1).endswith("train progress 5/10 train/loss 0.123457")
    assert read_tail(storage, "key", 7) == ""


def test_records_of_the_packages_and_warnings_of_everybody_are_taken(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    log = TrialLog(storage, "key", 1, ("orchestrator", "workload_x"))
    logging.getLogger("workload_x.data").info("12 images")
    logging.getLogger("somebody").info("not this")
    logging.getLogger("somebody").warning("careful: %d", 3)
    log.close()
    logging.getLogger("workload_x").info("after the end")
    assert read_tail(storage, "key", 1).splitlines()[0].endswith("info: 12 images")
    assert read_tail(storage, "key", 1).splitlines()[1:] == [
        line for line in read_tail(storage, "key", 1).splitlines() if line.endswith("warning: careful: 3")
    ]


def test_a_storage_that_is_away_does_not_stop_the_log(tmp_path: Path) -> None:
    log = TrialLog(Storage(str(tmp_path / "results")), "key", 0)
    (tmp_path / "results").write_text("a file where the folder should be")
    log.note("still here")
    log.close()
    assert "still here" in (log.folder / "rank0.log").read_text()


def test_a_log_whose_files_vanish_ends_without_ending_the_training(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    log = TrialLog(storage, "key", 0)
    log.note("first")
    log.ship()
    shutil.rmtree(log.folder)
    log.note("second")
    log.ship()
    log.close()
    assert read_tail(storage, "key", 0).endswith("first")


def test_an_attempt_that_begins_while_the_storage_is_away_keeps_the_earlier_log(
    tmp_path: Path, s3_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = TrialLog(s3_storage, "k", 0)
    first.note("the first attempt")
    first.close()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        threading.Timer(0.5, patch.undo).start()
        second = TrialLog(s3_storage, "k", 0)
    second.note("the second attempt")
    second.close()
    text = s3_storage.read_bytes("trials/k/logs/rank0.log").decode()
    assert text.index("the first attempt") < text.index("the second attempt")
