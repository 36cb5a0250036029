"""Spare processes: a worker of a gang gets one that was there before it, and has imported what it was told to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from orchestrator.raystart import connect
from orchestrator.spares import AHEAD, Spares, import_ahead, worker_environment

MODULES = ("colorsys",)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    import ray

    started = connect(address="local", slots=1, cpus=1)
    yield ray
    if started:
        ray.shutdown()


@pytest.mark.ray
def test_a_worker_gets_the_spare_that_was_ordered(ray_here: Any) -> None:
    class Driver:
        def order(self) -> None:
            Spares().order(1, MODULES)

        def start(self) -> tuple[int, bool]:
            import ray
            from ray.train.v2._internal.execution.worker_group import WorkerGroup

            made = WorkerGroup._get_worker_runtime_env({"env_vars": worker_environment(MODULES)})
            worker = ray.remote(num_cpus=0, runtime_env=made)(Worker).remote()
            api: Any = ray
            found: tuple[int, bool] = api.get(worker.look.remote())
            return found

    class Worker:
        def look(self) -> tuple[int, bool]:
            return os.getpid(), all(name in sys.modules for name in (*MODULES, "torch", "mlflow"))

    driver = ray_here.remote(num_cpus=0)(Driver).remote()
    ray_here.get(driver.order.remote())
    spares: set[int] = set()
    deadline = time.monotonic() + 60
    while not spares and time.monotonic() < deadline:
        spares = {child.pid for child in psutil.Process().children(recursive=True) if _is_spare(child)}
        time.sleep(0.1)
    pid, imported = ray_here.get(driver.start.remote())
    assert {pid} == spares
    assert imported
    ray_here.kill(driver)


def _is_spare(process: psutil.Process) -> bool:
    try:
        return AHEAD in process.environ() and process.cmdline()[:1] == ["ray::IDLE"]
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def test_a_module_that_cannot_be_imported_ahead_keeps_no_worker_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(AHEAD, "no_such_module,colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    import_ahead()
    assert "colorsys" in sys.modules


def test_nothing_is_ordered_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRGRID_LOCAL_RAY", raising=False)
    spares = Spares()
    spares.order(2, MODULES)  # without a Ray this would fail
    assert spares.ready == 0
