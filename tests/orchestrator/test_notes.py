"""What a person finds in a run, in a real MLflow store: its description, its data, tables and pictures by step."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.describe import benchmark_note, restated, without_secrets
from orchestrator.exhibits import picture_files
from orchestrator.grid import expand, parse_overrides
from orchestrator.inputs import log_inputs
from orchestrator.notes import write_note
from orchestrator.plan import ClusterShape, PlannedTrial, make_plan
from orchestrator.registry import MODEL_TAG
from orchestrator.report import Report, Row, Trial
from orchestrator.runs import Ending, close_run, ending_of, open_run
from orchestrator.runstore import TAG_LIMIT
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.views import NOTE_TAG
from orchestrator.workload import Input
from tests.orchestrator.fake import FakeWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WORKLOAD = FakeWorkload()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    Tracker(f"{folder}/mlflow.db", "seed").check()
    return folder / "mlflow.db"


@pytest.fixture
def settings(empty_store: Path, tmp_path: Path) -> Settings:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Settings(
        storage=f"{tmp_path}/results",
        tracking=f"sqlite:///{tmp_path}/mlflow.db",
        artifacts=f"{tmp_path}/mlartifacts",
        benchmark="bench",
    )


@pytest.fixture
def tracker(settings: Settings) -> Tracker:
    return Tracker(settings.tracking, settings.benchmark, artifacts=settings.artifacts)


def _planned(*overrides: str) -> PlannedTrial:
    trials = expand(WORKLOAD, WORKLOAD.cells()[:1], parse_overrides(overrides), data="data")
    return make_plan(trials, {}, ClusterShape(slots=1, cpus=1), workers=["1"], cpus_per_worker=1).trials[0]


def _note(tracker: Tracker, run_id: str) -> str:
    return tracker.tags(run_id)[NOTE_TAG]


def test_a_run_says_from_its_start_to_its_end_how_it_stands(tracker: Tracker, settings: Settings) -> None:
    planned = _planned()
    run_id = open_run(tracker, WORKLOAD, planned, settings, {"git_commit": "0123abc"})
    opened = _note(tracker, run_id)
    assert "**running**" in opened.splitlines()[0]
    assert "| mIoU | 70.00 | \u2013 | \u2013 |" in opened
    assert f"(#/experiments/{tracker.experiment_id}/runs/{run_id}/artifacts/logs/rank0.log)" in opened
    assert "`0123abc`" in opened
    last = planned.estimate.iterations
    assert tracker.history(run_id, "published/mIoU") == ((0, 70.0), (last, 70.0)), "a line beside the curve"

    metrics = {"val/mIoU": 69.8, "val/mIoU_ms_flip": 71.5}
    ending = ending_of(WORKLOAD, planned, settings, {}, "finished", metrics)
    again = Ending.of({"ending": json.loads(json.dumps(ending.document()))})
    assert again == ending, "what a server that is away is told later"
    close_run(tracker, run_id, planned.key, again, Storage(settings.storage))
    closed = _note(tracker, run_id)
    assert "**reproduced**: mIoU 69.80, published 70.00, gap -0.20" in closed.splitlines()[0]
    assert "| mIoU (ms+flip) | 71.00 | 71.50 | +0.50 |" in closed
    assert "artifacts/checkpoints/best" in closed
    assert tracker.history(run_id, "published/mIoU") == ((0, 70.0), (last, 70.0))
    assert tracker.history(run_id, "published/gap") == ((last, pytest.approx(-0.2)),)


def test_why_a_score_is_not_comparable_and_why_a_trial_failed_are_told(settings: Settings) -> None:
    planned = _planned("rate=0.25")
    note = ending_of(WORKLOAD, planned, settings, {}, "finished", {"val/mIoU": 12.0}).note
    assert "**not comparable**" in note
    assert "- rate 0.25" in note
    failed = ending_of(WORKLOAD, planned, settings, {}, "failed", {}, "worker 0: no `room`\nlog", "take a larger disk")
    assert failed.note.splitlines()[0].endswith("**failed**: `worker 0: no 'room'`; take a larger disk")
    stated = restated(note, "interrupted", "no sign of life")
    assert "**interrupted**: no sign of life" in stated.splitlines()[0]
    assert stated.splitlines()[1:] == note.splitlines()[1:]


def test_what_people_add_stays_and_a_model_is_linked(tracker: Tracker) -> None:
    run_id = tracker.start_run("k", "cell")
    tracker.set_tags(run_id, {NOTE_TAG: "ours from before"})
    write_note(tracker, run_id, "first")
    tracker.set_tags(run_id, {NOTE_TAG: _note(tracker, run_id) + "\nmine", MODEL_TAG: "models:/a b/3"})
    for _ in range(2):
        write_note(tracker, run_id, "second\n- logs")
    note = _note(tracker, run_id)
    assert note.startswith("second\n- logs\n- model: [a b, version 3](#/models/a%20b/versions/3)\n")
    assert "first" not in note
    assert note.endswith("ours from before\nmine")
    tracker.set_tags(run_id, {MODEL_TAG: "models:/a b/4"})
    write_note(tracker, run_id)
    assert "- model: [a b, version 4](#/models/a%20b/versions/4)" in _note(tracker, run_id)
    assert len(_note(tracker, run_id)) == len(note)


def test_the_leaderboard_of_a_whole_benchmark_fits(tracker: Tracker) -> None:
    trial = Trial(cell="c", key="k", state="finished", metrics={"val/mIoU": 70.0, "val/mIoU_ms_flip": 71.0})
    trial = dataclasses.replace(trial, not_comparable=("crop 64x128 instead of 512x1024",))
    rows = [
        Row(
            cell=f"cell {n}",
            facets={"dataset": "pascal-context-59", "width": "w18-small", "schedule": "160k"},
            published={"val/mIoU": 70.0},
            trials=(dataclasses.replace(trial, run_url=f"http://host/#/experiments/1/runs/{n:032x}"),),
        )
        for n in range(60)
    ]
    run_id = tracker.start_run("summary", "summary", kind="summary")
    note = benchmark_note(Report(title="bench", rows=rows[:45]), "s3://key:secret@bucket/reports/report.html")
    write_note(tracker, run_id, note)
    stored = _note(tracker, run_id)
    write_note(tracker, run_id, note)
    assert _note(tracker, run_id) == stored, "nothing was cut off that a second writing would take for a person's"
    assert stored.count("](#/experiments/1/runs/") >= 45
    assert "secret" not in stored
    assert "report.html`" in stored
    many = benchmark_note(Report(title="bench", rows=rows), "s3://bucket/report.html")
    assert "more rows are in the report" in many
    write_note(tracker, run_id, many)
    assert len(_note(tracker, run_id)) < TAG_LIMIT


def test_the_data_of_a_run_are_logged_once(tracker: Tracker) -> None:
    spec = dataclasses.replace(_planned().spec, data="s3://user:pass@bucket/city?token=1", data_fingerprint="f" * 64)
    parts = [
        Input(name=f"city {split}", context=split, profile={"images": 7}, columns={"image": "binary"})
        for split in ("train", "val")
    ]
    run_id = tracker.start_run("k", "cell")
    for _ in range(2):
        log_inputs(tracker, run_id, spec, parts)
    found = tracker.client.get_run(run_id).inputs.dataset_inputs
    contexts = {part.dataset.name: part.tags[0].value for part in found}
    assert contexts == {"city train": "train", "city val": "val"}
    assert len(found) == 2
    assert {part.dataset.digest for part in found} == {"f" * 36}
    assert {part.dataset.source for part in found} == {'{"uri": "s3://bucket/city"}'}
    assert {part.dataset.profile for part in found} == {'{"images": 7}'}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [("/data/a@b?c", "/data/a@b?c"), ("s3://bucket/x", "s3://bucket/x"), ("https://u:p@h:1/x?s=1#f", "https://h:1/x")],
)
def test_addresses_lose_their_secrets(uri: str, shown: str) -> None:
    assert without_secrets(uri) == shown


def test_tables_and_pictures_are_known_to_the_ui(tracker: Tracker) -> None:
    run_id = tracker.start_run("k", "cell")
    png = io.BytesIO()
    Image.new("RGB", (64, 32)).save(png, "PNG")
    for _ in range(2):  # the second time a resumed training goes over the same step
        files = picture_files("overlays/1", png.getvalue(), run_id=run_id, step=40, timestamp_ms=5)
        for path, content in files.items():
            tracker.log_artifact(run_id, content, path)
        for path in ("eval/a.table.json", "eval/b.table.json"):
            tracker.log_artifact(run_id, b'{"columns": ["a"], "data": [[1]]}', path)
    names = tracker.artifact_names(run_id, "images")
    assert len(names) == 2
    assert all(name.startswith("images/overlays~1+step+40+timestamp+5+") for name in names)
    assert {name.rpartition(".")[2] for name in names} == {"png", "webp"}
    tags = tracker.tags(run_id)
    assert tags["mlflow.loggedImages"] == "True"
    tables = json.loads(tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": f"eval/{name}.table.json", "type": "table"} for name in ("a", "b")]
