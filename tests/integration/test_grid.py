"""A grid of four cells through Ray Tune, Ray Train and MLflow: a gang, a lost worker and a user's mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import provenance
from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children

pytestmark = [
    pytest.mark.ray,
    # A launch of four cells, whose restarts wait for a busy machine.
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

CELLS = ("thin-add-short", "thick-add-short", "thin-add-long", "thick-add-long")


class Grid:
    """What a launch of the four cells left behind."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir()
        arguments = [f"{folder}/results", *CELLS, "--workers", "thick-add-short=2", "--data", f"{folder}/data"]
        self.document: dict[str, Any] = children.finish(children.start(arguments, folder / "home"), 600.0)
        self.storage = Storage(f"{folder}/results")
        self.ledger = Ledger(self.storage)
        self.tracker = Tracker(f"{folder}/results/mlflow.db", "bench")
        self.runs = {run.name: run for run in self.tracker.runs()}

    def outcome(self, cell: str) -> dict[str, Any]:
        found: dict[str, Any] = self.document["outcomes"][cell]
        return found

    def steps(self, cell: str, metric: str) -> list[int]:
        history = self.tracker.client.get_metric_history(self.runs[cell].run_id, metric)
        return [int(point.step) for point in history]

    def log(self, cell: str, rank: int = 0) -> str:
        return self.storage.read_bytes(f"trials/{self.outcome(cell)['key']}/logs/rank{rank}.log").decode()


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"))


def test_every_cell_has_its_true_end_and_one_run(grid: Grid) -> None:
    states = {cell: grid.outcome(cell)["state"] for cell in CELLS}
    assert states == dict.fromkeys(CELLS, "finished") | {"thin-add-long": "failed"}
    assert {name: run.status for name, run in grid.runs.items()} == {
        cell: "FAILED" if state == "failed" else "FINISHED" for cell, state in states.items()
    }
    for cell in CELLS:
        assert grid.ledger.state(grid.outcome(cell)["key"]) == states[cell]
        assert grid.runs[cell].key == grid.outcome(cell)["key"]
        assert grid.runs[cell].run_id == grid.outcome(cell)["run_id"]
    assert {entry.cell for entry in grid.ledger.benchmark("bench")} == set(CELLS)
    assert grid.document["updates"] > 5


def test_a_user_mistake_fails_at_once_and_carries_the_log(grid: Grid) -> None:
    error = grid.outcome("thin-add-long")["error"]
    assert error.startswith("thin-add-long: worker 0: thin-add-long: rate 0.5 is out of range")
    assert "train checkpoint 2/16" in error
    assert "Traceback" in error
    assert grid.log("thin-add-long").count("starts on") == 1
    assert grid.runs["thin-add-long"].tags["hrgrid.error"].endswith("take 0 to 0.1")
    assert grid.steps("thin-add-long", "train/loss") == [2]


def test_a_lost_worker_resumes_from_its_checkpoint_without_doubled_points(grid: Grid) -> None:
    log = grid.log("thick-add-long")
    assert log.count("starts on") == 2
    resumed = int(log.split("goes on from the checkpoint of step ")[1].split()[0])
    assert resumed in (6, 8)
    assert grid.steps("thick-add-long", "train/loss") == list(range(2, 17, 2))
    assert grid.steps("thick-add-long", "val/mIoU") == list(range(2, 17, 2))


def test_a_report_draws_a_resumed_training_as_one_curve(grid: Grid) -> None:
    key = grid.outcome("thick-add-long")["key"]
    curves = grid.ledger.exhibits([key])[key].curves
    assert {name: [step for step, _ in curve] for name, curve in curves.items()} == {
        "train/loss": list(range(2, 17, 2)), "val/mIoU": list(range(2, 17, 2))
    }  # fmt: skip
    assert curves["val/mIoU"][-1][1] == pytest.approx(grid.runs["thick-add-long"].metrics["val/mIoU"], rel=1e-4)


def test_a_gang_of_two_keeps_a_log_per_worker(grid: Grid) -> None:
    run = grid.runs["thick-add-short"]
    names = grid.tracker.artifact_names(run.run_id)
    assert {f"logs/rank{rank}.{kind}" for rank in (0, 1) for kind in ("jsonl", "log")} < set(names)
    assert run.tags["hrgrid.workers"] == "2"
    assert "evaluate finished 2/2" in grid.log("thick-add-short", rank=1)
    assert grid.steps("thick-add-short", "train/loss") == [2, 4, 6, 8]


def test_a_run_shows_what_a_person_looks_for(grid: Grid) -> None:
    run = grid.runs["thick-add-short"]
    names = set(grid.tracker.artifact_names(run.run_id))
    assert {
        "config/recipe.yaml", "eval/scores.json", "logs/rank0.log", "checkpoints/last/manifest.json",
        "checkpoints/last/state.json", "checkpoints/best/manifest.json",
    } <= names  # fmt: skip
    recipe = yaml.safe_load(grid.tracker.read_artifact(run.run_id, "config/recipe.yaml") or b"")
    assert recipe["cell"] == "thick-add-short"
    assert recipe["settings"]["steps"] == 8
    assert grid.tracker.client.get_run(run.run_id).data.params["rate"] == "0.5"
    assert run.metrics["published/mIoU"] == 70.0
    assert run.metrics["published/gap"] == pytest.approx(run.metrics["val/mIoU"] - 70.0)
    assert run.metrics["val/mIoU_ms_flip"] == pytest.approx(run.metrics["val/mIoU"] + 1.0)
    assert run.metrics["system/node0/process_memory_gb"] > 0.01
    assert {"task", "shape", "plan"} <= set(run.tags)
    commit = provenance.source().facts["git_commit"]
    assert run.tags.get("mlflow.source.git.commit") == commit
    assert run.tags["hrgrid.host"] == "laptop"
    assert run.tags["hrgrid.verdict"] == "above"
    assert grid.runs["thin-add-long"].tags["hrgrid.verdict"] == "failed"


def test_results_do_not_depend_on_the_gang_or_on_a_crash(grid: Grid) -> None:
    assert grid.outcome("thin-add-short")["metrics"] == grid.outcome("thick-add-short")["metrics"]
    best = CheckpointStore(grid.storage, grid.outcome("thick-add-long")["key"]).latest_step()
    assert best == 16
    lease = grid.storage.read_json(f"trials/{grid.outcome('thin-add-short')['key']}/leases/000001.json")
    assert lease["released"]
