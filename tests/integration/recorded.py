"""Benchmarks in MLflow without a training: recorded through the code that records trainings, with made-up curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from jobs._wiring import HrnetWorkload
from orchestrator.grid import expand
from orchestrator.plan import ClusterShape, PlannedTrial, make_plan
from orchestrator.recorder import Recorder
from orchestrator.runs import EndState, close_run, ending_of, open_run
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.views import NOTE_TAG, description

__all__ = ["WORKLOAD", "curves", "finish", "machine", "opened", "planned", "summarise", "trained"]

WORKLOAD: Final = HrnetWorkload()
PROVENANCE: Final = {"git_commit": "0123456789abcdef", "git_branch": "main", "git_dirty": False, "host": "gpu-node-1"}


def planned(count: int | None = None) -> list[PlannedTrial]:
    """The first `count` of the 45 recipes (None: all), on four GPUs."""
    cells = WORKLOAD.cells()[:count]
    return list(make_plan(expand(WORKLOAD, cells), {}, ClusterShape(slots=4, kind="GPU", cpus=64, gpus=4)).trials)


def opened(tracker: Tracker, trial: PlannedTrial, settings: Settings) -> str:
    """The id of the trial's run, RUNNING."""
    return open_run(tracker, WORKLOAD, trial, settings, PROVENANCE, contested=False)


def curves(trial: PlannedTrial, score: float, steps: Sequence[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """What a training logs at every one of the steps, the last of them included."""
    total, rate = trial.estimate.iterations, float(trial.spec.settings["lr"])
    for step in steps:
        share = step / total
        noise = math.sin(step * 12.9898) / 40
        loss = 0.15 + (100 - score) / 20 * math.exp(-8 * share) + noise
        yield step, {
            "train/loss": loss, "train/lr": rate * max(1 - share, 0.0) ** 0.9, "train/acc": 95 - 20 * loss,
            "train/data_wait": 0.02 + abs(noise), "train/images_per_s": 31.0 + 10 * noise, "train/memory_gb": 6.2,
        }  # fmt: skip
        if step % max(total // 10, 1) == 0:
            mean = score * (1 - math.exp(-6 * share))
            yield step, {"val/mIoU": mean, "val/mAcc": mean + 7, "val/aAcc": min(mean + 18, 97.0)}


def machine(second: int) -> dict[str, float]:
    """What the machine does at a second of a run."""
    swing = math.sin(second / 900)
    return {
        "system/node0/cpu_percent": 60 + 20 * swing, "system/node0/memory_gb": 48 + 4 * swing,
        "system/node0/process_memory_gb": 9 + swing, "system/node0/disk_free_gb": 800 - second / 4000,
        "system/node0/gpu_percent": 96 + 2 * swing, "system/node0/gpu_memory_gb": 6.4,
        "system/node0/gpu_power_w": 290 + 8 * swing,
    }  # fmt: skip


def trained(tracker: Tracker, trial: PlannedTrial, settings: Settings, score: float, points: int) -> str:
    """Record a training with `points` points per curve and the machine's load every minute; returns the run's id."""
    run_id = opened(tracker, trial, settings)
    total = trial.estimate.iterations
    recorder = Recorder(tracker.uri, run_id, tracker.start_ms(run_id), flush_seconds=0.0)
    for step, metrics in curves(trial, score, [total * (number + 1) // points for number in range(points)]):
        recorder.record(metrics, step)
    for second in range(0, 60 * points, 60):
        recorder.record(machine(second), second, timestamp_ms=tracker.start_ms(run_id) + 1000 * second)
    assert recorder.close()
    return run_id


def finish(
    tracker: Tracker,
    run_id: str,
    trial: PlannedTrial,
    settings: Settings,
    metrics: Mapping[str, float],
    state: EndState = "finished",
    error: str | None = None,
) -> None:
    """End a run as its trial ends."""
    ending = ending_of(WORKLOAD, trial, settings, PROVENANCE, state, metrics, error)
    close_run(tracker, run_id, trial.key, ending, Storage(settings.storage))


def summarise(tracker: Tracker, settings: Settings, counts: Mapping[str, int], files: Mapping[str, bytes]) -> str:
    """Write the benchmark's summary run and the experiment's description; returns the run's id."""
    run_id = tracker.log_summary(settings.benchmark, files, {f"cells/{name}": n for name, n in counts.items()})
    where = str(Path(settings.storage, "reports", settings.benchmark, "report.html"))
    text = description(settings.benchmark, counts, experiment_id=tracker.experiment_id, report=where)
    tracker.tag_experiment({NOTE_TAG: text})
    return run_id
