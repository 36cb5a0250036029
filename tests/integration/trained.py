"""A training of seconds on drawn streets, recorded in MLflow as a trial's is, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jobs.cli import main
from orchestrator.exhibits import picture_files
from orchestrator.grid import Override, expand
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.recorder import Recorder
from orchestrator.registry import packaged, register
from orchestrator.runs import close_run, ending_of, open_run
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration.recorded import PROVENANCE, WORKLOAD

__all__ = ["CELL", "train"]

CELL: Final = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
SMALL: Final = {
    "max_iters": "6", "val_interval": "3", "log_interval": "1", "crop": "64x64", "batch_size": "2",
    "train_scale": "128x64", "test_scale": "128x64", "tta_ratios": "0.75,1.0", "pretrained": "none", "lr": "0.05",
    "speed_images": "1",
}  # fmt: skip


def train(tracker: Tracker, settings: Settings, folder: Path) -> str:
    """Draw, prepare, train, evaluate and register in `folder`; returns the id of the finished run."""
    assert main(["data", "synth", "--to", f"{folder}/drawn", "--train", "4", "--val", "4", "--size", "64x128"]) == 0
    assert main(["data", "prepare", f"{folder}/drawn", "--to", f"{folder}/prepared", "--partial"]) == 0
    cell = next(cell for cell in WORKLOAD.cells() if cell.name == CELL)
    changes = [Override(None, key, value) for key, value in SMALL.items()]
    (trial,) = expand(WORKLOAD, [cell], changes, data=f"{folder}/prepared")
    (planned,) = make_plan([trial], {}, ClusterShape(slots=1, kind="CPU", cpus=1, gpus=0)).trials
    run_id = open_run(tracker, WORKLOAD, planned, settings, PROVENANCE, contested=False)
    begun = tracker.start_ms(run_id)
    recorder = Recorder(tracker.uri, run_id, begun, flush_seconds=0.0)
    checkpoint = folder / "checkpoint"
    for event in WORKLOAD.train(planned.spec, None, cpus=1):
        recorder.record(event.metrics, event.step)
        if event.save is not None:
            checkpoint.mkdir(exist_ok=True)
            event.save(checkpoint)
        for name, png in event.pictures.items():
            files = picture_files(name, png, run_id=run_id, step=event.step, timestamp_ms=begun + event.step)
            for path, content in files.items():
                tracker.log_artifact(run_id, content, path)
    assert recorder.close()
    metrics: dict[str, float] = {}
    for event in WORKLOAD.evaluate(planned.spec, checkpoint, cpus=1):
        metrics |= event.metrics
        for path, content in event.artifacts.items():
            tracker.log_artifact(run_id, content, path)
    assert packaged(WORKLOAD, planned.spec, planned.key, checkpoint, settings, folder / "model")
    assert register(tracker, run_id, folder / "model") is not None
    ending = ending_of(WORKLOAD, planned, settings, PROVENANCE, "finished", metrics)
    close_run(tracker, run_id, planned.key, ending, Storage(settings.storage))
    return run_id
