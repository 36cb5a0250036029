"""Runs in a real MLflow store: found by key before they are made, legal names, true statuses, artifacts."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.runstore import absolute_uri, flatten, legal_name, local_folder
from orchestrator.storage import Storage
from orchestrator.tracking import REASON_TAG, Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables made, which takes seconds and is copied per test."""
    folder = tmp_path_factory.mktemp("store")
    Tracker(f"{folder}/mlflow.db", "seed").check()
    return folder / "mlflow.db"


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path) -> Tracker:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", "bench", artifacts=f"{tmp_path}/mlartifacts")


def test_a_key_has_one_run_whose_params_are_written_once(tracker: Tracker) -> None:
    first = tracker.start_run("k1", "cell", tags={"dataset": "ade20k"}, params={"lr": "0.01", "crop": "512,512"})
    tracker.finish(first, "KILLED")
    again = tracker.start_run("k1", "cell", tags={"attempt": "2"}, params={"lr": "0.02", "momentum": "0.9"})
    other = tracker.start_run("k2", "cell")

    assert again == first != other
    found = tracker.find("k1")
    assert found is not None
    assert found.status == "RUNNING"
    assert found.tags["dataset"] == "ade20k"
    assert found.tags["attempt"] == "2"
    assert found.tags["hrgrid.kind"] == "trial"
    params = tracker.client.get_run(first).data.params
    assert params == {"lr": "0.01", "crop": "512,512", "momentum": "0.9"}
    assert found.start_ms == tracker.start_ms(first)


def test_finish_sets_status_tags_and_the_metrics_that_are_new(tracker: Tracker) -> None:
    run_id = tracker.start_run("k", "cell")
    tracker.finish(run_id, "FINISHED", metrics={"val/mIoU": 71.5}, step=40, tags={"verdict": "below"})
    tracker.start_run("k", "cell")
    tracker.finish(run_id, "FAILED", metrics={"val/mIoU": 71.5, "published/gap": -0.5}, step=40)

    history = tracker.client.get_metric_history(run_id, "val/mIoU")
    assert [(point.step, point.value) for point in history] == [(40, 71.5)]
    (run,) = tracker.runs()
    assert run.status == "FAILED"
    assert run.metrics == {"val/mIoU": 71.5, "published/gap": -0.5}
    assert run.tags["verdict"] == "below"
    assert run.url is None


def test_of_a_name_a_step_is_stored_once_whatever_the_value(tracker: Tracker) -> None:
    run_id = tracker.start_run("k", "cell")
    tracker.finish(run_id, "FINISHED", metrics={"val/mIoU": 71.5, "val/odd": float("nan")}, step=40)
    tracker.finish(run_id, "FINISHED", metrics={"val/mIoU": 71.6, "val/odd": float("nan")}, step=40)
    for name in ("val/mIoU", "val/odd"):
        assert len(tracker.client.get_metric_history(run_id, name)) == 1
    assert tracker.client.get_run(run_id).data.metrics["val/mIoU"] == 71.5


def test_a_run_that_goes_on_is_running_without_an_end(tracker: Tracker) -> None:
    run_id = tracker.start_run("k", "cell")
    tracker.note_attempt(run_id, "host-a", 2)
    tracker.finish(run_id, "KILLED", tags={REASON_TAG: "no sign of life", "hrgrid.error": "worker 0 died"})
    assert tracker.client.get_run(run_id).info.end_time
    start = tracker.start_ms(run_id)

    assert tracker.start_run("k", "cell") == run_id
    tracker.note_attempt(run_id, "host-b", 1)
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.info.start_time) == ("RUNNING", start)
    assert not run.info.end_time
    assert not {REASON_TAG, "hrgrid.error"} & set(run.data.tags)
    attempts = {name: value for name, value in run.data.tags.items() if name.startswith("hrgrid.attempts")}
    assert attempts == {
        "hrgrid.attempts": "2",
        "hrgrid.attempts.hosts": "host-a, host-b",
        "hrgrid.attempts.workers": "2, 1",
    }


def test_launches_that_open_a_run_at_the_same_moment_get_the_same(tracker: Tracker) -> None:
    tracker.check()
    gate = threading.Barrier(2)

    def open_run(_: int) -> str:
        own = Tracker(tracker.uri, "bench")
        own.check()
        gate.wait(60)
        return own.start_run("k", "cell")

    with ThreadPoolExecutor(2) as pool:
        chosen = set(pool.map(open_run, range(2)))
    found = tracker.find("k")
    assert found is not None
    assert [run.run_id for run in tracker.runs() if run.status == "RUNNING"] == [found.run_id]
    assert chosen == {found.run_id}


def test_artifacts_of_every_shape_come_back(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("k", "cell")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    tracker.log_artifact(run_id, b"\x89PNG", "eval/confusion.png")
    tracker.log_artifact(run_id, "lr: 0.01\n", "config/recipe.yaml")
    tracker.log_artifact(run_id, folder / "manifest.json", "top.json")
    tracker.log_artifact(run_id, folder, "checkpoints/last")

    names = ["checkpoints/last/manifest.json", "config/recipe.yaml", "eval/confusion.png", "top.json"]
    assert tracker.artifact_names(run_id) == names
    assert tracker.read_artifact(run_id, "eval/confusion.png") == b"\x89PNG"
    assert tracker.read_artifact(run_id, "eval/none.png") is None
    assert list((tmp_path / "mlartifacts").rglob("recipe.yaml"))


def test_a_checkpoint_lies_once_on_a_disk(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_run("k", "cell")
    for content in (b"first", b"second"):
        storage = Storage(str(tmp_path / "storage"))
        storage.write_bytes("checkpoint/state.pt", content)
        storage.download("checkpoint", tmp_path / "fetched")
        tracker.log_artifact(run_id, tmp_path / "fetched", "checkpoints/last")
        assert tracker.read_artifact(run_id, "checkpoints/last/state.pt") == content

    (shown,) = (tmp_path / "mlartifacts").rglob("state.pt")
    assert shown.samefile(tmp_path / "storage" / "checkpoint" / "state.pt")


def test_a_store_behind_a_server_is_no_folder() -> None:
    assert local_folder("mlflow-artifacts:/1/abc/artifacts") is None
    assert local_folder("s3://bucket/prefix") is None
    assert local_folder("file:///a/b%20c") == Path("/a/b c")


def test_one_summary_run_per_benchmark_beside_the_trials(tracker: Tracker) -> None:
    tracker.start_run("k", "cell")
    first = tracker.log_summary("bench", {"leaderboard.json": b"[]"}, {"cells/finished": 1.0})
    time.sleep(0.002)
    second = tracker.log_summary("bench", {"leaderboard.json": b"[1]"}, {"cells/finished": 0.0})

    assert first == second
    assert [run.kind for run in tracker.runs(kind=None)] == ["trial", "summary"]
    assert json.loads(tracker.read_artifact(first, "leaderboard.json") or b"") == [1]
    (summary,) = tracker.runs("summary")
    assert summary.status == "FINISHED"
    assert summary.metrics == {"cells/finished": 0.0}


def test_many_params_and_long_values_fit(tracker: Tracker) -> None:
    params = {f"setting{index}": "v" * 7000 for index in range(150)}
    run_id = tracker.start_run("k", "cell", params=params)
    stored = tracker.client.get_run(run_id).data.params
    assert len(stored) == 150
    assert len(stored["setting149"]) == 6000


def test_a_deleted_experiment_is_named(tracker: Tracker) -> None:
    tracker.check()
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match="experiment 'bench' is deleted"):
        Tracker(tracker.uri, "bench").check()


def test_a_tracker_travels_without_its_connection(tracker: Tracker) -> None:
    run_id = tracker.start_run("k", "cell")
    copy = pickle.loads(pickle.dumps(tracker))
    found = copy.find("k")
    assert found is not None
    assert found.run_id == run_id


def test_a_server_that_is_not_there_is_one_sentence_within_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"http://127.0.0.1:9 does not answer .*hrgrid serve"):
        Tracker("http://127.0.0.1:9/", "bench").check()
    with pytest.raises(TrackingError, match=r"127.0.0.1:9 does not answer"):
        Tracker("postgresql://user:secret@127.0.0.1:9/db", "bench").check()
    assert time.monotonic() - started < 5


def test_a_store_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is not a database, and long enough to be seen as one" * 20)
    with pytest.raises(TrackingError, match=r"cannot be used \(.*not a database"):
        Tracker(f"{tmp_path}/broken.db", "bench").check()


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host/x", "./runs"])
def test_file_stores_are_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match="MLflow keeps no runs there"):
        absolute_uri(uri)


def test_addresses_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("a/m.db") == f"sqlite:///{tmp_path}/a/m.db"
    assert absolute_uri("sqlite:///m.db") == f"sqlite:///{tmp_path}/m.db"
    assert absolute_uri("sqlite:////var/m.db") == "sqlite:////var/m.db"
    assert absolute_uri("https://host:5000/") == "https://host:5000"


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("val/mIoU", "val/mIoU"),
        ("iou/traffic light (red)", "iou/traffic light _red_"),
        ("/a//../b%", "a/b_"),
        ("", "unnamed"),
    ],
)
def test_names_become_legal(name: str, legal: str) -> None:
    assert legal_name(name) == legal


def test_nested_settings_become_flat_params() -> None:
    settings = {"crop": (512, 1024), "optim": {"lr": 0.01, "none": None}, "rows": [[1, 2]]}
    assert flatten(settings) == {"crop": "512,1024", "optim.lr": "0.01", "optim.none": "None", "rows": "[[1, 2]]"}
