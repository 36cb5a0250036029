"""docs/explore.ipynb runs on a benchmark that was recorded as trainings are, and holds no output of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.settings import make_settings
from orchestrator.tracking import Tracker
from tests.integration import recorded

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "explore.ipynb"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def store(folder: Path) -> None:
    """The first four recipes in the store of a local storage, each with a table of its classes."""
    places = make_settings(storage=str(folder / "hrgrid-results"), environment={})
    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    for number, trial in enumerate(recorded.planned(4)):
        run_id = recorded.trained(tracker, trial, places, 72.0 + number, points=20)
        table = {"classes": [{"name": name, "iou": 60.0 + number} for name in ("road", "pole")]}
        tracker.log_artifact(run_id, json.dumps(table), "eval/per_class_iou.json")
        scores = {"val/mIoU": 72.0 + number, "val/mIoU_ms_flip": 73.5 + number, "speed/fps": 20.0 / (number + 1)}
        recorded.finish(tracker, run_id, trial, places, scores)


def test_every_cell_runs_on_a_recorded_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in [name for name in os.environ if name.startswith(("HRGRID_TRACKING", "HRGRID_BENCHMARK", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    store(tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert outputs.count("image/png") == 2
    assert "fcn_hr18s_4xb2-40k_cityscapes-512x1024" in outputs
    assert "FINISHED" in outputs
    assert len((tmp_path / "benchmark.csv").read_text().splitlines()) == 5


def test_no_output_is_kept() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
