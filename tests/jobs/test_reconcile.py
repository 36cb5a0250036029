"""`hrgrid reconcile` says what was wrong and what was done, one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cli import main
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_one_line_per_repair_then_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker(f"{tmp_path}/mlflow.db", "grid")
    run_id = tracker.start_run("k", "cell")
    ledger = Ledger(Storage(str(tmp_path)))
    ledger.add_benchmark("grid", [Entry(cell="cell", key="k", facets={}, seed=0)])
    ledger.write_progress("k", {"cell": "cell", "run_id": run_id, "owner": "gone:1:1", "step": 3, "updated": 1.0})
    words = ["reconcile", "--storage", str(tmp_path)]

    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "cell: it was interrupted; to be done: its run is KILLED until a launch resumes it\n"
    )
    assert main([*words, "--json"]) == 0
    (repair,) = json.loads(capsys.readouterr().out)["repairs"]
    assert (repair["benchmark"], repair["key"], repair["run_id"], repair["failed"]) == ("grid", "k", run_id, False)
    assert tracker.client.get_run(run_id).info.status == "KILLED"
    assert main([*words, "--name", "grid"]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"


def test_a_storage_or_name_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconcile", "--storage", str(tmp_path)]) == 2
    assert "holds no benchmark" in capsys.readouterr().err
    Ledger(Storage(str(tmp_path))).add_benchmark("grid", [Entry(cell="cell", key="k", facets={}, seed=0)])
    assert main(["reconcile", "--storage", str(tmp_path), "--name", "gridd"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_dry_run_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger(Storage(str(tmp_path))).add_benchmark("grid", [Entry(cell="cell", key="k", facets={}, seed=0)])
    assert main(["reconcile", "--storage", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"
    assert not list(tmp_path.glob("mlflow.db*"))
