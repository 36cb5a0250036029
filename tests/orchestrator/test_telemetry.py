"""Samples of this machine, and the series that a resumed run goes on with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.recorder import Recorder
from orchestrator.telemetry import Gpus, Sampler, device, machine
from orchestrator.tracking import Tracker


def test_a_sample_holds_plausible_numbers() -> None:
    machine()
    sample = machine(Gpus(visible=""))
    assert set(sample) == {"cpu_percent", "memory_gb", "process_memory_gb", "disk_free_gb"}
    assert 0.0 <= sample["cpu_percent"] <= 100.0
    assert 0.001 < sample["process_memory_gb"] < sample["memory_gb"] < 10_000
    assert sample["disk_free_gb"] > 0


def test_no_gpu_or_none_visible_is_an_empty_reading() -> None:
    gpus = Gpus(visible="")
    assert len(gpus) == 0
    assert gpus.read() == {}
    assert gpus.name is None
    assert device(gpus).split(",")[0] == "CPU"


def test_the_sampler_counts_seconds_from_the_start_of_the_run() -> None:
    seen: list[tuple[Mapping[str, float], int]] = []
    start_ms = int((time.time() - 500) * 1000)
    sampler = Sampler(lambda metrics, step: seen.append((metrics, step)), node=3, start_ms=start_ms, interval=0.2)
    time.sleep(0.7)
    sampler.close()
    count = len(seen)
    assert count >= 3
    assert all(500 <= step <= 510 for _, step in seen)
    assert all(name.startswith("system/node3/") for metrics, _ in seen for name in metrics)
    time.sleep(0.4)
    assert len(seen) == count


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_each_node_has_its_series_in_the_run_and_a_resumed_run_goes_on_with_them(tmp_path: Path) -> None:
    tracker = Tracker(f"{tmp_path}/mlflow.db", "bench")
    run_id = tracker.start_run("k", "cell")
    start = tracker.start_ms(run_id)

    def attempt(seconds: int) -> None:
        """Two nodes sample for themselves, as `seconds` after the start of the run."""
        recorders = [Recorder(tracker.uri, run_id, start, folder=tmp_path / f"node{node}") for node in (0, 1)]
        for node, recorder in enumerate(recorders):
            sampler = Sampler(
                lambda metrics, step, recorder=recorder: recorder.record(
                    metrics, step, timestamp_ms=start + 1000 * step
                ),
                node=node,
                start_ms=int((time.time() - seconds) * 1000),
            )
            sampler.close()
        assert all(recorder.close(60) for recorder in recorders)

    attempt(100)
    attempt(500)
    names = tracker.client.get_run(run_id).data.metrics
    for node in (0, 1):
        for name in ("cpu_percent", "memory_gb", "process_memory_gb", "disk_free_gb"):
            assert f"system/node{node}/{name}" in names
            points = tracker.client.get_metric_history(run_id, f"system/node{node}/{name}")
            assert [round(point.step, -2) for point in points] == [100, 500]
