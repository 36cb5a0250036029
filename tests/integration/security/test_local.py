"""A launch on a local Ray: nothing that it starts listens to other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import children
from tests.integration.security.ports import watch

pytestmark = pytest.mark.ray


def test_no_port_of_a_local_launch_can_be_reached_from_another_machine(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    arguments = [f"{tmp_path}/results", "thick-add-short", "--workers", "2", "--data", f"{tmp_path}/data"]
    launch = children.start([*arguments, "--set", "sleep=0.2"], tmp_path / "home")
    ports = watch(launch.pid, seconds=240)
    assert children.finish(launch)["outcomes"]["thick-add-short"]["state"] == "finished"
    seen = {port.process for port in ports}
    assert {"Ray GCS", "Ray raylet and object manager", "ray::RayTrainWorker", "ray::TrainController"} <= seen
    assert not [port for port in ports if port.beyond_loopback]
