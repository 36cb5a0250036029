"""A real small grid through the commands: one cell that learns, one that cannot; then everything that follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest

from jobs.cli import main

ROOT = Path(__file__).resolve().parents[2]

GOOD = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
BAD = "fcn_hr18s_4xb2-80k_cityscapes-512x1024"
SMALL = (
    "max_iters=4", "val_interval=2", "log_interval=1", "crop=64x64", "batch_size=2", "train_scale=128x64",
    "test_scale=128x64", "tta_ratios=1.0", "pretrained=none", "speed_images=3",
)  # fmt: skip
RUIN = ("max_iters=40", "val_interval=40", "lr=100", "weight_decay=1")
"""Every step of this makes the weights about a hundred times larger, until the loss is no number."""

REFERENCE = [
    {"env_info": "somewhere"},
    {"mode": "train", "epoch": 1, "iter": 1, "lr": 0.01, "loss": 1.0},
    {"mode": "train", "epoch": 1, "iter": 2, "lr": 0.01, "loss": 0.5},
    {"mode": "val", "epoch": 1, "iter": 2, "mIoU": 0.97, "mAcc": 0.98, "aAcc": 0.99},
    {"mode": "train", "epoch": 1, "iter": 4, "lr": 0.01, "loss": 0.25},
    {"mode": "val", "epoch": 1, "iter": 4, "mIoU": 0.98, "mAcc": 0.98, "aAcc": 0.99},
]
"""The log of a training that no four iterations can keep up with."""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def hrgrid(*argv: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "HRGRID_"))}
    command = [sys.executable, "-m", "jobs.cli", *map(str, argv)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**env, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def places(folder: Path) -> list[str]:
    return ["--data", str(folder / "prepared"), "--storage", str(folder / "results"), "--name", "small"]


@dataclass(frozen=True)
class Launched:
    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def storage(self) -> Path:
        return self.folder / "results"

    def status(self) -> list[dict[str, Any]]:
        done = hrgrid("status", "--storage", self.storage, "--json", home=self.folder)
        (benchmark,) = json.loads(done.stdout)["benchmarks"]
        return list(benchmark["cells"])


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    folder = tmp_path_factory.mktemp("launched")
    drawn, prepared = folder / "cityscapes", folder / "prepared"
    assert main(["data", "synth", "--to", str(drawn), "--train", "4", "--val", "2", "--size", "64x128"]) == 0
    assert main(["data", "prepare", str(drawn), "--to", str(prepared), "--partial"]) == 0
    words = [GOOD, BAD, *sets(*SMALL, *(f"{BAD}:{change}" for change in RUIN)), *places(folder)]
    log = folder / "reference.log.json"
    log.write_text("".join(json.dumps(line) + "\n" for line in REFERENCE))
    words += ["--reference-log", f"{GOOD}:{log}"]
    done = hrgrid("launch", *words, "--workers", "1", "--yes", home=folder)
    return Launched(folder, done)


def test_the_launch_tells_what_it_does_and_that_a_cell_failed(launched: Launched) -> None:
    done = launched.done
    assert done.returncode == 1, done.stdout + done.stderr
    assert not done.stderr
    for part in (
        "2 cells: 2 to run",
        f"{GOOD}: training",
        f"{GOOD}: finished",
        f"{BAD}: failed",
        "1 cell failed; the same command tries again",
        f"{BAD}: last lines of the log of worker 0:",
        f"report: {launched.storage}/reports/small/report.html",
        "next: hrgrid ui",
    ):
        assert part in done.stdout
    (said,) = [line for line in done.stdout.splitlines() if line.startswith(f"{BAD} failed: ")]
    assert "the loss is" in said
    assert "lower lr" in said


def test_status_tells_the_same(launched: Launched) -> None:
    cells = {cell["cell"]: cell for cell in launched.status()}
    assert {name: cell["state"] for name, cell in cells.items()} == {GOOD: "finished", BAD: "failed"}
    assert cells[GOOD]["step"] == cells[GOOD]["total"] == 4
    assert 0 <= cells[GOOD]["metrics"]["val/mIoU"] <= 100
    assert cells[GOOD]["metrics"]["train/loss"] > 0
    assert "the loss is" in cells[BAD]["error"]


def test_the_reference_is_drawn_beside_the_run_and_a_run_far_below_is_flagged(launched: Launched) -> None:
    from orchestrator.tracking import Tracker

    run = {run.name: run for run in Tracker(str(launched.storage / "mlflow.db"), "small").runs()}[GOOD]
    tracker = Tracker(str(launched.storage / "mlflow.db"), "small")
    assert tracker.history(run.run_id, "reference/val/mIoU") == ((2, pytest.approx(97)), (4, pytest.approx(98)))
    assert [step for step, _ in tracker.history(run.run_id, "reference/train/loss")] == [1, 2, 4]
    assert run.tags["hrgrid.reference"] == str(launched.folder / "reference.log.json")
    assert len(run.tags["hrgrid.reference_sha256"]) == 64
    warning = run.tags["hrgrid.warning"]
    assert warning.startswith("val/mIoU ")
    assert "at iteration 4 is 9" in warning
    assert warning.endswith("points below the reference's 98.0")
    assert run.status == "FINISHED"
    (cell,) = [cell for cell in launched.status() if cell["cell"] == GOOD]
    assert cell["warning"] == warning
    assert f"reference of 1 cell: {launched.folder}/reference.log.json" in launched.done.stdout
    assert f"{GOOD} is far below its reference: {warning}" in launched.done.stdout
    assert f"- {GOOD}: {warning}" in (launched.storage / "reports" / "small" / "report.md").read_text()


def test_a_relaunch_of_what_is_finished_starts_nothing(launched: Launched) -> None:
    before = {path: path.stat().st_mtime_ns for path in (launched.storage / "trials").rglob("*") if path.is_file()}
    words = ["launch", GOOD, *sets(*SMALL), *places(launched.folder)]
    code = f"import sys\nfrom jobs.cli import main\nprint(main({words!r}), 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cell: 1 to skip" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 False", "it failed, or imported Ray"
    after = {path: path.stat().st_mtime_ns for path in (launched.storage / "trials").rglob("*") if path.is_file()}
    assert after == before


def test_the_report_stands_beside_the_published_numbers(launched: Launched) -> None:
    done = hrgrid("report", "--storage", launched.storage, "--json", home=launched.folder)
    rows = {row["cell"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows[GOOD]["published_mIoU"] == 73.86
    assert rows[GOOD]["verdict"] == "not comparable"
    assert "max_iters 4 instead of 40000" in rows[GOOD]["not_comparable"]
    assert rows[BAD]["verdict"] == "failed"
    folder = launched.storage / "reports" / "small"
    assert {path.suffix for path in folder.iterdir()} == {".html", ".md", ".csv", ".json"}
    assert (folder / "report.html").read_text().count("data:image/jpeg;base64,") == 4


def test_evaluate_gives_the_score_of_the_launch_again(launched: Launched) -> None:
    (cell,) = [cell for cell in launched.status() if cell["cell"] == GOOD]
    done = hrgrid(
        "evaluate", GOOD, "--weights", cell["key"], "--storage", launched.storage, "--data",
        launched.folder / "prepared", *sets(*SMALL), "--ms-flip", "--json", home=launched.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    for name in ("val/mIoU", "val/mIoU_ms_flip"):
        assert metrics[name] == pytest.approx(cell["metrics"][name], abs=0.01)


def test_the_finished_cell_is_a_registered_model(launched: Launched, tmp_path: Path) -> None:
    from orchestrator.tracking import Tracker

    tracking = str(launched.storage / "mlflow.db")
    tracker = Tracker(tracking, "small")
    (version,) = tracker.client.search_model_versions("")
    (cell,) = [cell for cell in launched.status() if cell["cell"] == GOOD]
    assert version.name == f"small.{GOOD}"
    assert version.tags["hrgrid.key"] == cell["key"]
    assert version.tags["hrgrid.verdict"] == "not comparable"
    assert 0 <= float(version.tags["mIoU"]) <= 100
    assert tracker.tags(version.run_id)["hrgrid.model"] == f"models:/{version.name}/{version.version}"
    source = next((launched.folder / "cityscapes").glob("leftImg8bit/val/*/*.png"))
    words = ["predict", f"models:/small.{GOOD}@best", source, "-o", tmp_path, "--storage", launched.storage, "--json"]
    done = hrgrid(*words, home=launched.folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{source.stem}_overlay.png").is_file()


def test_predict_draws_images_of_any_size(launched: Launched, tmp_path: Path) -> None:
    source = next((launched.folder / "cityscapes").glob("leftImg8bit/val/*/*.png"))
    image = cv2.imread(str(source))
    assert image is not None
    cv2.imwrite(str(tmp_path / "odd.png"), image[:51, :77])
    done = hrgrid(
        "predict", GOOD, tmp_path / "odd.png", "--to", tmp_path / "out", "--storage", launched.storage, "--json",
        home=launched.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (facts,) = json.loads(done.stdout)
    classes = cv2.imread(facts["classes"], cv2.IMREAD_UNCHANGED)
    overlay = cv2.imread(facts["overlay"])
    assert classes is not None
    assert overlay is not None
    assert classes.shape == (51, 77)
    assert classes.max() < 19
    assert overlay.shape == (51, 77, 3)
