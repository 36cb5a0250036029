"""What code, versions and data made a run is an artifact of it, for every launch that went on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.grid import expand
from orchestrator.plan import ClusterShape, make_plan
from orchestrator.runs import open_run
from orchestrator.settings import make_settings
from orchestrator.tracking import Tracker
from tests.orchestrator.fake import FakeWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_each_launch_with_another_code_keeps_its_own_origin(tmp_path: Path) -> None:
    workload, settings = FakeWorkload(), make_settings(storage=f"{tmp_path}/results", environment={})
    trials = expand(workload, workload.cells()[:1], [], data="data")
    shape = ClusterShape(slots=1, cpus=1)
    planned = make_plan(trials, {}, shape, workers=["1"], cpus_per_worker=1).trials[0]
    tracker = Tracker(settings.tracking, settings.benchmark, artifacts=settings.artifacts)
    dirty = {"git_commit": "0123abc", "git_branch": "main", "git_dirty": True, "host": "head", "submit_host": "laptop"}
    run_id = open_run(tracker, workload, planned, settings, dirty, "a patch")
    tags = tracker.tags(run_id)
    assert (tags["hrgrid.git_dirty"], tags["hrgrid.host"], tags["hrgrid.submit_host"]) == ("true", "head", "laptop")
    assert (tags["mlflow.source.git.commit"], tags["mlflow.source.git.branch"]) == ("0123abc", "main")
    assert tracker.read_artifact(run_id, "provenance/diff.patch") == b"a patch"
    document = json.loads(tracker.read_artifact(run_id, "provenance/provenance.json") or b"")
    assert document == {
        **dirty, "key": planned.key, "data": planned.spec.data, "code_version": planned.spec.code_version,
        "data_fingerprint": planned.spec.data_fingerprint,
    }  # fmt: skip

    assert open_run(tracker, workload, planned, settings, dirty, "a patch") == run_id
    assert tracker.artifact_names(run_id, "provenance") == ["provenance/diff.patch", "provenance/provenance.json"]
    clean = {"git_commit": "feed", "git_dirty": False, "host": "head"}
    open_run(tracker, workload, planned, settings, clean)
    assert tracker.artifact_names(run_id, "provenance/2") == ["provenance/2/provenance.json"]
    assert tracker.tags(run_id)["hrgrid.git_dirty"] == "false"
    open_run(tracker, workload, planned, settings, {**clean, "host": "another"}, "another patch")
    assert tracker.read_artifact(run_id, "provenance/3/diff.patch") == b"another patch"
