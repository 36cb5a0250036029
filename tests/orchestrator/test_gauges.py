"""What restarts cost, and the names that it is shown under; tests/integration/test_gauges.py asks a real exporter."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.gauges import gauge_name, shown
from orchestrator.ledger import Ledger
from orchestrator.progress import ProgressWriter
from orchestrator.raystart import LOCAL
from orchestrator.storage import Storage


def test_names_have_no_capitals() -> None:
    assert gauge_name("val/mIoU_ms_flip") == "hrgrid_val_miou_ms_flip"


def test_a_local_launch_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL, "1")
    seen: list[Any] = []
    assert shown("bench", seen.append) == seen.append


@pytest.mark.parametrize(("saved", "lost"), [(40.0, 45.0), (0.0, 105.0), (300.0, 105.0)])
def test_a_restart_costs_the_time_since_its_checkpoint(tmp_path: Path, saved: float, lost: float) -> None:
    """The attempt before had begun 100 s ago, and 5 s were lost already; `saved` is seconds ago, 0: nowhere."""
    ledger, now = Ledger(Storage(str(tmp_path))), time.time()
    lease = ledger.claim("k", "me")
    before = {"lease": lease, "attempt": 1, "started": now - 100, "lost_seconds": 5.0, "state": "running"}
    ledger.write_progress("k", before, lease=lease or 0)
    spec = SimpleNamespace(cell=SimpleNamespace(name="cell"))
    job: Any = SimpleNamespace(spec=spec, key="k", run_id="r", workers=1, owner="me", lease=lease, share=1)
    writer = ProgressWriter(ledger, job, lambda: None)
    writer.resumed(10, now - saved if saved else 0.0)
    writer.close()
    document = ledger.progress("k") or {}
    assert document["attempt"] == 2
    assert lost <= document["lost_seconds"] < lost + 30
