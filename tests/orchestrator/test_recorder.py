"""Metrics reach a real MLflow store once each, whatever happens to the server and to the training in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.grid import expand
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.points import Point
from orchestrator.recorder import Recorder
from orchestrator.runs import wait_for_run
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker, refused
from orchestrator.undelivered import Undelivered
from tests.orchestrator.fake import FakeWorkload
from tests.orchestrator.mlflow_store import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

AWAY = "http://127.0.0.1:9"
"""An address where no server is."""


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    tracker = Tracker(f"{tmp_path_factory.mktemp('store')}/mlflow.db", "bench")
    tracker.check()
    return tracker


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that each test finds running and may kill; it takes ten seconds to start."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
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
    lines = [json.dumps(["train/loss", 0.5, 10, 1000]), '{"name": "train/l']
    (tmp_path / f"spill-{run_id}.jsonl").write_text("\n".join(lines))
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 0.6}, 10)
    recorder.record({"train/loss": 0.4}, 20)
    assert recorder.close()
    assert _points(tracker, run_id, "train/loss") == [(10, 0.5), (20, 0.4)]


def test_a_file_that_a_power_cut_has_spoilt_costs_its_spoilt_lines_alone(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("spoilt", "spoilt")
    line = json.dumps(["train/loss", 1.0, 10, 1000]).encode()
    (tmp_path / f"spill-{run_id}.1-0.jsonl").write_bytes(b"\x00\xff\xfe\n" + line + b"\n")
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 0.5}, 20)
    assert recorder.close()
    assert _points(tracker, run_id, "train/loss") == [(10, 1.0), (20, 0.5)]


def test_a_run_that_was_deleted_neither_blocks_nor_spills_for_ever(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("gone", "cell")
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.record({"train/loss": 1.0}, 1)
    assert recorder.flush(30)
    tracker.client.delete_run(run_id)
    recorder.record({"train/loss": 2.0}, 2)
    assert recorder.close(10)


def test_what_an_attempt_on_another_host_left_is_delivered_though_a_later_one_has_sent_later_points(
    tracker: Tracker, tmp_path: Path
) -> None:
    run_id = tracker.start_run("older", "cell")
    kept = Undelivered(Storage(str(tmp_path / "storage")), "older")
    first = Recorder(AWAY, run_id, tracker.start_ms(run_id), folder=tmp_path / "host1", undelivered=kept)
    for step in (10, 20, 30):
        first.record({"train/loss": float(step)}, step)
    first.record({"val/mIoU": 50.0}, 20)
    assert not first.close(0.5)
    assert not first.spill.exists()
    assert kept.exists()

    second = _recorder(tracker, run_id, tmp_path / "host2")  # knows nothing of what the first has left
    for step in (20, 40):
        second.record({"train/loss": -float(step), "val/mIoU": -float(step)}, step)
    assert second.close()

    third = Recorder(tracker.uri, run_id, tracker.start_ms(run_id), folder=tmp_path / "host3", undelivered=kept)
    third.record({"train/loss": 99.0}, 40)
    assert third.close(30)
    assert not kept.exists()
    assert _points(tracker, run_id, "train/loss") == [(10, 10.0), (20, -20.0), (30, 30.0), (40, -40.0)]
    assert _points(tracker, run_id, "val/mIoU") == [(20, -20.0), (40, -40.0)]


def test_what_a_killed_worker_had_not_sent_comes_from_its_checkpoint(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("unsent", "cell")
    sent = _recorder(tracker, run_id, tmp_path)
    sent.record({"train/loss": 1.0}, 1)
    assert sent.close()
    killed = Recorder(AWAY, run_id, tracker.start_ms(run_id), folder=tmp_path / "gone")
    for step in (1, 2, 3):
        killed.record({"train/loss": float(step), "train/grad_norm": float("nan")}, step)
    manifest = json.loads(json.dumps(killed.unsent()))
    killed.record({"train/loss": 4.5}, 4)
    killed.close(0.1)

    resumed = _recorder(tracker, run_id, tmp_path / "host2")
    resumed.restore(manifest)
    resumed.record({"train/loss": 4.0}, 4)
    assert resumed.close()
    assert resumed.unsent() == []
    assert _points(tracker, run_id, "train/loss") == [(step, float(step)) for step in (1, 2, 3, 4)]
    assert [step for step, _ in _points(tracker, run_id, "train/grad_norm")] == [1, 2, 3]


def test_of_a_batch_only_the_point_that_the_store_refuses_is_left_out(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracker.start_run("refused", "cell")
    recorder = _recorder(tracker, run_id, tmp_path)
    recorder.restore([["train/loss" if step != 7 else "no|name", 1.0, step, 1000 + step] for step in range(20)])
    assert recorder.close()
    assert [step for step, _ in _points(tracker, run_id, "train/loss")] == [s for s in range(20) if s != 7]
    assert [record.getMessage() for record in caplog.records if "refuses 1 points" in record.getMessage()]


def test_what_waits_is_bounded_and_no_validation_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.recorder.SPILL_POINTS", 400)
    recorder = Recorder(AWAY, "bounded", 0, folder=tmp_path, flush_seconds=0.01)
    for step in range(1000):
        recorder.record({"train/loss": float(step), "train/acc": float(step)}, step)
        if step % 50 == 0:
            recorder.record({"val/mIoU": float(step)}, step)
            time.sleep(0.02)
    assert not recorder.close(0.5)
    kept = [Point.of(json.loads(line)) for line in recorder.spill.read_text().splitlines()]
    assert 200 <= len(kept) <= 400
    steps = {name: [point.step for point in kept if point.name == name] for name in ("train/loss", "train/acc")}
    assert all(len(found) > 80 and found == sorted(found) and found[-1] == 999 for found in steps.values())
    assert [point.step for point in kept if point.name == "val/mIoU"] == list(range(0, 1000, 50))
    assert sum("are thinned" in record.getMessage() for record in caplog.records) == 1


def test_nobody_takes_the_points_of_a_recorder_that_lives(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("living", "cell")
    living = Recorder(AWAY, run_id, tracker.start_ms(run_id), folder=tmp_path, flush_seconds=0.01)
    living.record({"train/loss": 1.0}, 1)
    deadline = time.monotonic() + 30
    while not living.spill.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    other = _recorder(tracker, run_id, tmp_path)
    other.record({"train/loss": 2.0}, 2)
    assert other.close()
    assert living.spill.read_text().count("train/loss") == 1
    assert not living.close(0.1)

    heir = _recorder(tracker, run_id, tmp_path)
    assert heir.close()
    assert _points(tracker, run_id, "train/loss") == [(1, 1.0), (2, 2.0)]
    assert not living.spill.exists()


@pytest.mark.parametrize(
    ("code", "message", "is_refused"),
    [
        ("INVALID_PARAMETER_VALUE", "the name is not legal", True),
        ("RESOURCE_DOES_NOT_EXIST", "no run of this id", True),
        ("BAD_REQUEST", "(sqlite3.OperationalError) database is locked", False),
        ("TEMPORARILY_UNAVAILABLE", "(sqlite3.OperationalError) database is locked", False),
        ("RESOURCE_EXHAUSTED", "too many requests", False),
        ("INTERNAL_ERROR", "the server is ill", False),
        ("UNAUTHENTICATED", "no password", False),
    ],
)
def test_only_what_the_request_is_to_blame_for_counts_as_refused(code: str, message: str, is_refused: bool) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    assert refused(MlflowException(message, error_code=ErrorCode.Value(code))) is is_refused
    assert not refused(ConnectionError("reset by peer"))


def test_a_server_killed_and_started_again_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
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


def test_what_begins_and_ends_while_the_server_is_away_waits_for_it(server: Server, tmp_path: Path) -> None:
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

    trials = expand(FakeWorkload(), FakeWorkload().cells()[:1], [], data="data")
    planned = make_plan(trials, {}, ClusterShape(slots=2, cpus=2), workers=["1"], cpus_per_worker=1).trials[0]
    settings = Settings(storage=str(tmp_path), tracking=server.uri, artifacts=None, benchmark="bench")
    waits: list[float] = []

    def wait() -> None:
        waits.append(time.monotonic())
        server.start()

    opened, _ = wait_for_run(tracker, FakeWorkload(), planned, settings, {}, wait, seconds=200)
    assert len(waits) == 1
    assert tracker.client.get_run(opened).info.status == "RUNNING"
    second = Recorder(server.uri, run_id, start, folder=tmp_path)
    second.record({"train/loss": 2.0}, 2)
    assert second.close()
    assert _points(tracker, run_id, "train/loss") == [(1, 1.0), (2, 2.0)]
