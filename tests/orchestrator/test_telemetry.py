"""Samples of this machine, and the series that a resumed run goes on with."""

from __future__ import annotations

import time
from collections.abc import Mapping

from orchestrator.telemetry import Gpus, Sampler, device, machine


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
