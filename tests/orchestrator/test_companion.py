"""The reference beside a run in a real MLflow store: drawn once, judged, flagged and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.companion import Companion, keep_reference, open_companion
from orchestrator.recorder import Recorder
from orchestrator.reference import Reference
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

KEY = "0123456789abcdef"
REFERENCE = Reference(
    source="a/b.log.json",
    sha256="ab" * 32,
    total=100,
    curves={"val/mIoU": tuple((step, 60.0) for step in (20, 40, 60, 80, 100, 120)), "train/lr": ((10, 0.1),)},
)


class Run:
    """One run of a store, with everything that rank 0 has for it."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(f"{folder}/results")
        self.tracker = Tracker(f"{folder}/mlflow.db", "bench")
        self.run_id = self.tracker.start_run(KEY, "cell")
        self._folder = folder

    def train(self, scores: Mapping[int, float]) -> Companion | None:
        """What an attempt does, which may be one of several."""
        recorder = Recorder(self.tracker.uri, self.run_id, 0, folder=self._folder / "spool", flush_seconds=0.05)
        companion = open_companion(
            self.storage,
            KEY,
            run=self.tracker,
            run_id=self.run_id,
            record=recorder.record,
            tell=lambda tags: self.tracker.set_tags(self.run_id, tags),
        )
        for step, score in scores.items():
            recorder.record({"val/mIoU": score}, step)
            if companion is not None:
                companion.see({"val/mIoU": score}, step, 100)
        assert recorder.close()
        return companion

    def tag(self, name: str) -> str | None:
        return self.tracker.tags(self.run_id).get(name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_drawn_once_and_flagged_over_an_interruption(run: Run) -> None:
    keep_reference(run.storage, KEY, REFERENCE)
    run.train({20: 40.0})
    assert run.tag("hrgrid.warning") is None, "one validation that is not very far below says nothing"
    assert run.tag("hrgrid.reference") == "a/b.log.json"
    # The second attempt executes step 20 again and knows of the first what the store holds.
    second = run.train({20: 40.0, 40: 42.0})
    assert second is not None
    assert second.warning == "val/mIoU 42.0 at iteration 40 is 18 points below the reference's 60.0"
    assert run.tag("hrgrid.warning") == second.warning
    third = run.train({})
    assert third is not None
    assert third.warning == second.warning, "a restart forgets no warning"
    run.train({60: 59.0})
    assert run.tag("hrgrid.warning") == ""
    assert run.tracker.history(run.run_id, "reference/val/mIoU") == REFERENCE.curves["val/mIoU"][:5]
    points = run.tracker.client.get_metric_history(run.run_id, "reference/val/mIoU")
    assert len(points) == 5, "drawn twice"
    assert run.tracker.history(run.run_id, "reference/train/lr") == ((10, 0.1),)


def test_another_reference_is_compared_and_leaves_the_drawing_as_it_is(run: Run) -> None:
    keep_reference(run.storage, KEY, REFERENCE)
    run.train({20: 60.0})
    other = Reference(source="other", sha256="cd" * 32, total=100, curves={"val/mIoU": ((20, 99.0), (100, 99.0))})
    keep_reference(run.storage, KEY, other)
    companion = run.train({40: 60.0})
    assert companion is not None
    assert companion.warning.endswith("39 points below the reference's 99.0")
    assert run.tag("hrgrid.reference") == "a/b.log.json"
    assert run.tracker.history(run.run_id, "reference/val/mIoU")[0] == (20, 60.0)


def test_without_a_reference_nothing_is_drawn(run: Run) -> None:
    assert run.train({20: 1.0}) is None
    assert run.tag("hrgrid.reference") is None


def test_a_damaged_reference_costs_no_training(run: Run) -> None:
    run.storage.write_json(f"trials/{KEY}/reference.json", {"source": "x"})
    assert run.train({20: 1.0}) is None


def test_without_the_store_it_starts_anew(run: Run, tmp_path: Path) -> None:
    keep_reference(run.storage, KEY, REFERENCE)
    told: list[Mapping[str, str]] = []
    away = Tracker("http://127.0.0.1:9", "bench")
    companion = open_companion(
        run.storage, KEY, run=away, run_id=run.run_id, record=lambda metrics, step: None, tell=told.append
    )
    assert companion is not None
    companion.see({"train/loss": 1.0}, 10, 100)
    companion.see({"val/mIoU": 1.0}, 40, 100)
    assert [list(tags) for tags in told] == [["hrgrid.reference", "hrgrid.reference_sha256"], ["hrgrid.warning"]]
