"""The program of this folder, run and read: gangs over two hosts come through cuts as if there had been none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.children import ROOT
from tests.integration.hosts.machine import can_make_machines

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.mark.skipif(not can_make_machines(), reason="needs root, to make machines of namespaces")
def test_a_grid_over_two_hosts_outlives_cuts_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    # In a process of its own, which enters the network of one of the machines.
    command = [sys.executable, "-m", "tests.integration.hosts", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert figures["exit_code"] == 0
    for row in figures["cells"]:
        assert row["weights"] == row["unbroken"] != ""
        assert (row["differences"], row["doubles"], row["gaps"]) == ([], 0, 0)
        assert row["status"] == "finished/FINISHED"
        assert set(row["hosts of each gang"].split(", ")) == {"2"}
    assert [row["attempts"] for row in figures["cells"]] == [2, 1]
