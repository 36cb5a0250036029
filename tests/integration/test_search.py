"""A search of four samples through Ray Tune's ASHA: poor ones end early with true states, and stay ended."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

REASON = re.compile(r"stopped early by the search at step (\d+) \(val/mIoU [\d.]+, rank (\d) of (\d) there\)")


def test_poor_samples_end_early_and_are_left_alone_afterwards(tmp_path: Path) -> None:
    results = f"{tmp_path}/results"
    arguments = [results, "thin-add-long", "--set", "sleep=0.6", "--set", "workers=1"]
    arguments += ["--search", "rate=grid(0.9,0.8,0.1,0.05)"]

    def search() -> tuple[dict[str, dict[str, Any]], bool]:
        document = children.finish(children.start(arguments, tmp_path / "home", "tests.integration.searching"), 480)
        return {sample["sample"]["rate"]: sample for sample in document["samples"]}, document["ray"]

    samples, _ = search()
    assert [sample["action"] for sample in samples.values()] == ["run"] * 4
    assert samples["0.9"]["state"] == "finished"
    stopped = {rate: sample for rate, sample in samples.items() if sample["state"] == "stopped"}
    assert stopped
    assert all(sample["state"] in ("finished", "stopped") for sample in samples.values())
    ledger, tracker = Ledger(Storage(results)), Tracker(f"{results}/mlflow.db", "bench")
    runs = {run.key: run for run in tracker.runs()}
    for rate, sample in stopped.items():
        found = REASON.fullmatch(sample["error"])
        assert found is not None, sample["error"]
        step, rank, of = map(int, found.groups())
        assert 1 < rank <= of <= 4
        record, run = ledger.trial(sample["key"]), runs[sample["key"]]
        assert record.state == "stopped"
        assert record.checkpoint_step is not None
        assert step <= record.checkpoint_step < 16
        assert record.result is not None
        assert record.result["error"] == sample["error"]
        assert ledger.claim(sample["key"], "somebody") is not None, "its lease was not given back"
        assert run.status == "KILLED"
        assert run.tags["hrgrid.error"] == sample["error"]
        assert run.tags["hrgrid.sample"] == f"rate={rate}"
        assert run.tags["hrgrid.verdict"] == "stopped"
        assert run.name == f"thin-add-long rate={rate}"

    again, with_ray = search()
    assert not with_ray
    assert {sample["action"] for sample in again.values()} == {"skip"}
    for rate, sample in again.items():
        if rate in stopped:
            assert sample["reason"] == f"{stopped[rate]['error']}; --resume-stopped goes on with it"
            assert sample["asked_to_resume"] == "resume"
