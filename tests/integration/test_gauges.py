"""What Ray's own exporter serves of a launch while it runs, beside what the dashboard asks for."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from tests.architecture.test_grafana import names
from tests.integration import children
from tests.integration.test_submit import Head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

CELL = "thick-add-long"
"""Loses its worker once, at step 10."""


def _samples(head: Head) -> dict[str, float]:
    """Series and value of everything that the nodes serve now, found as Prometheus finds them."""
    found: dict[str, float] = {}
    for group in json.loads(Path(head.temporary, "prom_metrics_service_discovery.json").read_text()):
        for target in group["targets"]:
            try:
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=20) as answer:
                    lines = answer.read().decode().splitlines()
            except OSError:  # its agent is starting
                continue
            found |= {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
    return found


def test_every_metric_of_the_dashboard_is_served_while_a_launch_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    head = Head(tmp_path)
    ledger = Ledger(Storage(head.results))
    seen: dict[str, float] = {}

    def ended() -> bool:
        seen.update(_samples(head))
        return [ledger.state(entry.key) for entry in ledger.benchmark("bench")] == ["finished"]

    try:
        children.wait_for(lambda: isinstance(head.client("jobs"), list), 240, "the head answers")
        program = [sys.executable, "-m", "tests.integration.watched_launch", head.results, CELL]
        options = ["--set", "sleep=2", "--slots", "1", "--data", f"{tmp_path}/data"]
        head.client("submit", "watched", str(children.ROOT), *program, *options)
        children.wait_for(ended, 400, "the trial is finished")
    finally:
        head.end()
    served = {series.partition("{")[0] for series in seen}
    of_gpus = {name for name in names() if "_gpu" in name or "_gram" in name}
    assert names() - of_gpus <= served
    ours = {series: value for series, value in seen.items() if series.startswith("ray_hrgrid_")}
    assert all(f'cell="{CELL}"' in series and 'benchmark="bench"' in series for series in ours)

    def value(name: str) -> float:
        return next(value for series, value in ours.items() if series.startswith(f"ray_hrgrid_{name}{{"))

    assert value("trial_steps") == 16
    assert value("trial_restarts") == 1
    assert 0 < value("trial_lost_seconds") < 400
    assert value("train_images_per_s") == 12.5
    assert any(series.startswith("ray_hrgrid_trial_state{") and 'state="running"' in series for series in ours)
