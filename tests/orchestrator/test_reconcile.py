"""What killed processes leave behind in a real ledger and a real MLflow store is made true again, once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import TrackingError
from orchestrator.grid import expand
from orchestrator.ledger import Entry, Ledger
from orchestrator.plan import ClusterShape, PlannedTrial, make_plan
from orchestrator.points import Point, SpillFile
from orchestrator.reconcile import reconcile
from orchestrator.runs import Ending, wait_for_run
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import DUPLICATE_TAG, REASON_TAG, Tracker
from orchestrator.undelivered import Undelivered
from tests.orchestrator.fake import FakeWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ROOT = Path(__file__).resolve().parents[2]
ENDING = Ending(status="FINISHED", step=40, metrics={"val/mIoU": 71.5}, tags={"hrgrid.verdict": "below"})


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    Tracker(f"{folder}/mlflow.db", "seed").check()
    return folder / "mlflow.db"


class Place:
    """A storage, a tracking store, and what a grid of one benchmark has left in them."""

    def __init__(self, folder: Path, tracking: str | None = None) -> None:
        self.settings = Settings(
            storage=f"{folder}/results",
            tracking=tracking or f"sqlite:///{folder}/mlflow.db",
            artifacts=f"{folder}/mlartifacts",
            benchmark="bench",
        )
        self.storage = Storage(self.settings.storage)
        self.ledger = Ledger(self.storage)
        self.tracker = Tracker(self.settings.tracking, "bench", artifacts=self.settings.artifacts)

    def add(self, key: str) -> str:
        """A trial of the benchmark with a run that is RUNNING."""
        self.ledger.add_benchmark("bench", [Entry(cell=f"cell-{key}", key=key, facets={}, seed=0)])
        return self.tracker.start_run(key, f"cell-{key}")

    def progress(self, key: str, run_id: str, *, owner: str = "elsewhere:1:1", age: float = 3600.0) -> None:
        document = {"cell": f"cell-{key}", "run_id": run_id, "owner": owner, "step": 20, "lease": 1}
        self.ledger.write_progress(key, {**document, "updated": self.ledger.clock() - age})

    def status(self, run_id: str) -> str:
        return str(self.tracker.client.get_run(run_id).info.status)

    def tags(self, run_id: str) -> dict[str, str]:
        return dict(self.tracker.client.get_run(run_id).data.tags)


@pytest.fixture
def place(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr("orchestrator.reconcile.spool_folder", lambda: tmp_path / "spool")
    monkeypatch.setattr("orchestrator.runs.spool_folder", lambda: tmp_path / "spool")
    monkeypatch.setattr("orchestrator.recorder.spool_folder", lambda: tmp_path / "spool")
    return Place(tmp_path)


def _result(run_id: str, **more: object) -> dict[str, object]:
    return {"state": "finished", "cell": "cell-k", "metrics": {"val/mIoU": 71.5}, "run_id": run_id,
            "tracked": False, "ending": ENDING.document(), **more}  # fmt: skip


def test_a_result_that_its_run_was_not_told_is_told_once_with_all_that_waits(place: Place, tmp_path: Path) -> None:
    run_id = place.add("k")
    place.ledger.write_result("k", _result(run_id, untracked="ConnectionError"))
    place.storage.write_bytes("trials/k/logs/rank0.log", b"all attempts")
    waiting = Undelivered(place.storage, "k")
    waiting.put_points([Point(name="train/loss", value=0.5, step=40, timestamp=1000)])
    waiting.put_artifact("eval/confusion matrix.png", b"PNG")
    waiting.want_checkpoint("last")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "state.pt").write_bytes(b"weights")
    CheckpointStore(place.storage, "k").save(tmp_path / "made", 40, {}, best=True)

    (told,) = reconcile(place.settings, dry_run=True)
    assert (told.done, place.status(run_id)) == ("to be done: the run is FINISHED now", "RUNNING")
    (repair,) = reconcile(place.settings)
    assert str(repair) == "cell-k: it is finished, which its run was not told; the run is FINISHED now"
    assert place.status(run_id) == "FINISHED"
    assert place.tags(run_id)["hrgrid.verdict"] == "below"
    assert {n: p.step for n in ("train/loss", "val/mIoU") for p in place.tracker.client.get_metric_history(run_id, n)}
    artifacts = {"checkpoints/last/state.pt", "eval/confusion matrix.png", "logs/rank0.log"}
    assert artifacts < set(place.tracker.artifact_names(run_id))
    assert not waiting.exists()
    assert reconcile(place.settings) == []
    assert reconcile(place.settings, thorough=True) == []
    (run,) = place.tracker.runs()
    assert run.metrics == {"train/loss": 0.5, "val/mIoU": 71.5}


def test_a_grid_that_is_done_and_told_costs_no_import_of_mlflow(place: Place) -> None:
    run_id = place.add("k")
    place.ledger.write_result("k", _result(run_id, tracked=True))
    place.add("old")
    place.ledger.write_result("old", {"state": "finished", "metrics": {}, "run_id": "written-before-this-was-known"})
    program = f"""
import sys
import time
from orchestrator.reconcile import reconcile
from orchestrator.settings import Settings
assert reconcile({place.settings!r}) == []
assert not {{"mlflow", "ray", "torch", "boto3"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)


def test_an_interrupted_trial_has_a_killed_run_until_it_goes_on(place: Place) -> None:
    run_id = place.add("k")
    place.progress("k", run_id)
    Undelivered(place.storage, "k").put_points([Point(name="train/loss", value=1.0, step=10, timestamp=1)])

    (repair,) = reconcile(place.settings)
    assert str(repair) == "cell-k: it was interrupted; its run is KILLED until a launch resumes it"
    assert place.status(run_id) == "KILLED"
    assert "since step 20" in place.tags(run_id)[REASON_TAG]
    assert len(place.tracker.client.get_metric_history(run_id, "train/loss")) == 1
    assert place.ledger.state("k") == "interrupted"
    assert reconcile(place.settings, thorough=True) == []

    assert place.tracker.start_run("k", "cell-k") == run_id
    assert place.status(run_id) == "RUNNING"
    assert REASON_TAG not in place.tags(run_id)


def test_what_another_launch_trains_is_left_alone(place: Place) -> None:
    fresh, silent = place.add("fresh"), place.add("silent")
    place.progress("fresh", fresh, age=1.0)
    place.progress("silent", silent)
    assert place.ledger.claim("silent", "elsewhere:1:1") == 1

    assert reconcile(place.settings, thorough=True) == []
    assert place.status(fresh) == place.status(silent) == "RUNNING"


def test_the_lease_of_a_killed_launch_of_this_host_is_released_at_once(place: Place) -> None:
    run_id = place.add("k")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner = f"{socket.gethostname()}:{gone.pid}:1"
    assert place.ledger.claim("k", owner) == 1
    place.progress("k", run_id, owner=owner, age=0.0)

    freed, killed = reconcile(place.settings)
    assert str(freed) == "cell-k: its launch was killed; its lease was released"
    assert killed.run_id == run_id
    assert place.status(run_id) == "KILLED"
    assert place.ledger.claim("k", "me:1:1") == 2


def test_points_that_a_killed_worker_left_on_this_host_reach_a_run_that_has_ended(
    place: Place, tmp_path: Path
) -> None:
    run_id = place.add("k")
    place.ledger.write_result("k", _result(run_id, tracked=True))
    left = SpillFile(tmp_path / "spool", run_id)
    left.append([Point(name="train/loss", value=1.0, step=10, timestamp=1)])
    left.release()
    (repair,) = reconcile(place.settings)
    assert repair.problem == "points of its curves were still on this host"
    assert [p.step for p in place.tracker.client.get_metric_history(run_id, "train/loss")] == [10]
    assert not left.path.exists()


def test_a_thorough_look_finds_second_runs_unknown_ones_and_false_statuses(place: Place) -> None:
    true = place.add("k")
    place.ledger.write_result("k", _result(true, tracked=True))
    tags = {"hrgrid.kind": "trial", "hrgrid.key": "k"}
    second = place.tracker.client.create_run(place.tracker.experiment_id, tags=tags, run_name="cell-k").info.run_id
    young = place.tracker.start_run("deleted", "cell-deleted")
    old = place.tracker.client.create_run(
        place.tracker.experiment_id, start_time=1000, run_name="cell-lost", tags={**tags, "hrgrid.key": "lost"}
    ).info.run_id

    assert reconcile(place.settings) == []
    said = {repair.run_id: str(repair) for repair in reconcile(place.settings, thorough=True)}
    assert place.status(true) == "FINISHED"
    assert (place.status(second), place.tags(second)[DUPLICATE_TAG]) == ("KILLED", true)
    assert place.status(young) == "RUNNING"
    assert said[young].endswith("(RUNNING); it was left as it is")
    assert place.status(old) == "KILLED"
    assert place.tags(old)[REASON_TAG].startswith("no ledger knows its trial")
    assert set(said) == {true, second, young, old}


def test_a_repair_that_cannot_be_done_keeps_no_other_from_being_done(place: Place) -> None:
    place.add("k")
    place.ledger.write_result("k", _result("0123456789abcdef0123456789abcdef"))
    other = place.add("other")
    place.ledger.write_result("other", _result(other))
    failed, done = reconcile(place.settings)
    assert failed.failed
    assert "0123456789abcdef0123456789abcdef" in failed.done
    assert not done.failed
    assert place.status(other) == "FINISHED"


def test_a_store_that_is_away_is_one_sentence_and_only_if_there_is_something_to_tell(tmp_path: Path) -> None:
    place = Place(tmp_path, tracking="http://127.0.0.1:9")
    assert reconcile(place.settings, ["new"]) == []
    place.ledger.write_result("k", _result("abc"))
    with pytest.raises(TrackingError, match="does not answer"):
        reconcile(place.settings, ["k"])
    result = place.ledger.result("k")
    assert result is not None
    assert result["tracked"] is False


def test_a_trial_waits_for_the_store_and_fails_with_one_sentence(tmp_path: Path) -> None:
    place = Place(tmp_path, tracking="http://127.0.0.1:9")
    waits = []
    with pytest.raises(TrackingError, match=r"does not answer .*; it was waited for 0 minutes"):
        wait_for_run(
            place.tracker, FakeWorkload(), _planned(), place.settings, {}, lambda: waits.append(1), seconds=1.5
        )
    assert 1 <= len(waits) <= 3


def _planned() -> PlannedTrial:
    trials = expand(FakeWorkload(), FakeWorkload().cells()[:1], [], data="data")
    return make_plan(trials, {}, ClusterShape(slots=2, cpus=2), workers=["1"], cpus_per_worker=1).trials[0]


def test_a_trial_of_a_lost_machine_can_be_claimed_after_its_run_was_ended(place: Place, tmp_path: Path) -> None:
    run_id = place.add("k")
    assert place.ledger.claim("k", "elsewhere:1:1") == 1
    place.progress("k", run_id)
    for file in (tmp_path / "results/trials/k/leases/000001.json", tmp_path / "results/trials/k/progress.json"):
        os.utime(file, (time.time() - 90.0, time.time() - 90.0))
    (repair,) = reconcile(place.settings)
    assert (repair.failed, place.status(run_id)) == (False, "KILLED")
    assert place.ledger.claim("k", "here:1:1") == 2


def test_the_run_of_a_trial_that_just_begins_again_is_not_told_its_earlier_end(place: Place) -> None:
    run_id = place.add("k")
    place.ledger.write_result("k", _result(run_id, state="failed", ending={**ENDING.document(), "status": "FAILED"}))
    assert place.ledger.claim("k", "elsewhere:1:1") == 1
    assert reconcile(place.settings, thorough=True) == []
    assert place.status(run_id) == "RUNNING"
    place.ledger.release("k", "elsewhere:1:1", 1)
    assert len(reconcile(place.settings)) == 1
    assert place.status(run_id) == "FAILED"
