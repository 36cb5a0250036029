"""Metrics reach a real MLflow store once each, whatever happens to the server and to the training in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.recorder import Recorder
from orchestrator.tracking import Tracker
from tests.orchestrator.mlflow_store import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    tracker = Tracker(f"{tmp_path_factory.mktemp('store')}/mlflow.db", "bench")
    tracker.check()
    return tracker


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def _points(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracker.client.get_metric_history(run_id, name)]


def _recorder(tracker: Tracker, run_id: str, folder: Path, retry_seconds: float = 0.3) -> Recorder:
    start = tracker.start_ms(run_id)
    return Recorder(tracker.uri, run_id, start, folder=folder, flush_seconds=0.1, retry_seconds=retry_seconds)


def test_points_carry_the_step_and_a_timestamp_made_of_it(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("stamps", "cell")
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 2.0, "iou/sky (day)": float("nan")}, 50)
    recorder.record({"train/loss": 1.0}, 100)
    recorder.record({"system/cpu": 5.0}, 7, timestamp_ms=123456789)
    assert recorder.close()

    history = tracker.client.get_metric_history(run_id, "train/loss")
    start = tracker.start_ms(run_id)
    assert [(p.step, p.value, p.timestamp) for p in history] == [(50, 2.0, start + 50), (100, 1.0, start + 100)]
    assert tracker.client.get_metric_history(run_id, "system/cpu")[0].timestamp == 123456789
    assert len(_points(tracker, run_id, "iou/sky _day_")) == 1
    assert not recorder.spill.exists()


def test_steps_executed_again_after_a_resume_are_not_sent_again(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("resumed", "cell")
    first = _recorder(tracker, run_id, tmp_path)
    for step in (10, 20, 30):
        first.record({"train/loss": float(step)}, step)
    assert first.close()

    second = _recorder(tracker, run_id, tmp_path)
    for step in (20, 30, 40):
        second.record({"train/loss": -float(step), "val/mIoU": float(step)}, step)
    second.record({"train/loss": 99.0}, 40)
    assert second.close()
    assert _points(tracker, run_id, "train/loss") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, -40.0)]
    assert _points(tracker, run_id, "val/mIoU") == [(20, 20.0), (30, 30.0), (40, 40.0)]


def test_more_points_than_one_request_takes(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("many", "cell")
    recorder = _recorder(tracker, run_id, tmp_path)
    for step in range(2500):
        recorder.record({"train/loss": float(step)}, step)
    assert recorder.flush(30)
    assert len(_points(tracker, run_id, "train/loss")) == 2500
    assert recorder.close()


def test_what_an_earlier_attempt_left_is_sent_first(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("left", "cell")
    lines = [json.dumps({"name": "train/loss", "value": 0.5, "step": 10, "timestamp": 1000}), '{"name": "train/l']
    (tmp_path / f"spill-{run_id}.jsonl").write_text("\n".join(lines))
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 0.6}, 10)
    recorder.record({"train/loss": 0.4}, 20)
    assert recorder.close()
    assert _points(tracker, run_id, "train/loss") == [(10, 0.5), (20, 0.4)]


def test_a_run_that_was_deleted_neither_blocks_nor_spills_for_ever(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("gone", "cell")
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 1.0}, 1)
    assert recorder.flush(30)
    tracker.client.delete_run(run_id)
    recorder.record({"train/loss": 2.0}, 2)
    assert recorder.close(10)


def test_a_server_killed_and_started_again_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    server.start()
    tracker = Tracker(server.uri, "bench")
    tracker.check()
    run_id = tracker.start_run("outage", "cell")
    assert tracker.run_url(run_id) == f"{server.uri}/#/experiments/{tracker.experiment_id}/runs/{run_id}"
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 0.0}, 0)
    assert recorder.flush(30)

    server.kill()
    waits = []
    for step in range(1, 21):
        before = time.perf_counter()
        recorder.record({"train/loss": float(step)}, step)
        waits.append(time.perf_counter() - before)
        time.sleep(0.05)
    assert max(waits) < 0.05
    assert not recorder.flush(0.5)
    assert recorder.spill.read_text().count("train/loss") >= 10

    server.start()
    assert recorder.flush(30)
    recorder.record({"train/loss": 21.0}, 21)
    assert recorder.close()
    assert _points(tracker, run_id, "train/loss") == [(step, float(step)) for step in range(22)]
    assert not recorder.spill.exists()


def test_closing_while_the_server_is_away_keeps_the_points_for_the_next_attempt(
    server: Server, tmp_path: Path
) -> None:
    server.start()
    tracker = Tracker(server.uri, "bench")
    run_id = tracker.start_run("late", "cell")
    start = tracker.start_ms(run_id)
    server.kill()
    first = Recorder(server.uri, run_id, start, folder=tmp_path)
    first.record({"train/loss": 1.0}, 1)
    before = time.monotonic()
    assert not first.close(1.0)
    assert time.monotonic() - before < 8
    assert first.spill.exists()

    server.start()
    second = Recorder(server.uri, run_id, start, folder=tmp_path)
    second.record({"train/loss": 2.0}, 2)
    assert second.close()
    assert _points(tracker, run_id, "train/loss") == [(1, 1.0), (2, 2.0)]
