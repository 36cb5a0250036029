"""A package of any workload becomes a version of its cell's registered model, once, in every kind of store."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import TrackingError, UsageError
from orchestrator.registry import MODEL_TAG, download, model_name, note_verdict, packaged, register
from orchestrator.runs import deliver
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import KEY_TAG, Tracker
from orchestrator.undelivered import Undelivered
from tests.orchestrator.fake import FakeWorkload
from tests.orchestrator.mlflow_store import Server, free_port
from tests.orchestrator.packaging import PackagingWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CELL = "thin-add-short"
NAME = f"bench.{CELL}"


class Place:
    """A tracking store, and trials whose checkpoints become models there."""

    def __init__(self, folder: Path, tracking: str, artifacts: str | None) -> None:
        self.folder = folder
        self.settings = Settings(
            storage=f"{folder}/results", tracking=tracking, artifacts=artifacts, benchmark="bench"
        )
        self.tracker = Tracker(tracking, "bench", artifacts=artifacts)

    def pack(self, key: str, score: float | None, not_comparable: tuple[str, ...] = ()) -> tuple[str, Path]:
        """A trial's run, and the package that its worker makes."""
        checkpoint, package = self.folder / f"{key}-checkpoint", self.folder / f"{key}-model"
        checkpoint.mkdir()
        (checkpoint / "state.json").write_text(f"{key} says ")
        workload = PackagingWorkload({} if score is None else {"val/mIoU": score})
        cell = next(cell for cell in workload.cells() if cell.name == CELL)
        spec = workload.resolve(cell, {}, seed=0, data="somewhere")
        spec = dataclasses.replace(spec, not_comparable=not_comparable)
        assert packaged(workload, spec, key, checkpoint, self.settings, package)
        return self.tracker.start_run(key, key, contested=False), package

    def add(self, key: str, score: float | None, not_comparable: tuple[str, ...] = ()) -> str | None:
        return register(self.tracker, *self.pack(key, score, not_comparable))

    @property
    def best(self) -> str:
        """The key that the alias points to."""
        return str(self.tracker.client.get_model_version_by_alias(NAME, "best").tags[KEY_TAG])

    def versions(self) -> dict[str, Any]:
        found = self.tracker.client.search_model_versions(f"name = '{NAME}'")
        return {version.tags[KEY_TAG]: version for version in found}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    Tracker(f"{folder}/mlflow.db", "seed").check()
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, empty_store: Path) -> Place:
    shutil.copy(empty_store, tmp_path)
    return Place(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/artifacts")


def test_versions_of_a_cell_and_the_best_of_them(place: Place) -> None:
    assert place.add("quick", 80.0, ("2 steps instead of 8",)) == f"models:/{NAME}/1"
    assert place.best == "quick"
    assert place.add("poor", 50.0) == f"models:/{NAME}/2"
    assert place.best == "poor", "what may not be compared goes after what may, whatever its score"
    place.add("good", 60.0)
    place.add("unscored", None)
    place.add("broken", float("nan"))
    place.add("equal", 60.0)
    assert place.best == "good"
    versions = place.versions()
    assert sorted(version.version for version in versions.values()) == [1, 2, 3, 4, 5, 6]
    assert (versions["good"].tags["mIoU"], versions["good"].tags["hrgrid.comparable"]) == ("60.00", "true")
    assert "2 steps instead of 8" in versions["quick"].description
    text = place.tracker.client.get_registered_model(NAME).description
    assert f'mlflow models serve --env-manager local --port 5001 \\\n  -m "models:/{NAME}@best"\n' in text
    assert f"MLFLOW_TRACKING_URI=sqlite:///{place.folder}/mlflow.db" in text


def test_a_trial_is_registered_once_and_told_its_verdict(place: Place) -> None:
    run_id, package = place.pack("key", 70.0)
    note_verdict(place.tracker, run_id, "nothing is registered yet")
    uri = register(place.tracker, run_id, package)
    place.tracker.client.delete_tag(run_id, MODEL_TAG)
    assert register(place.tracker, run_id, package) == uri == place.tracker.tags(run_id)[MODEL_TAG]
    note_verdict(place.tracker, run_id, "reproduced")
    (version,) = place.versions().values()
    assert version.tags["hrgrid.verdict"] == "reproduced"
    assert version.run_id == run_id


def test_a_workload_without_models_registers_none(place: Place, tmp_path: Path) -> None:
    workload = FakeWorkload()
    spec = workload.resolve(workload.cells()[0], {}, seed=0, data=None)
    assert not packaged(workload, spec, "key", tmp_path, place.settings, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_waits_in_storage_for_its_server(place: Place, storage: Storage) -> None:
    """Whoever delivers it has neither the checkpoint nor the workload."""
    run_id, package = place.pack("key", 70.0)
    away = Tracker(f"http://127.0.0.1:{free_port()}", "bench")
    with pytest.raises(TrackingError, match="does not answer"):
        register(away, run_id, package)
    waiting = Undelivered(storage, "key")
    assert not waiting.exists()
    waiting.put_model(package)
    assert waiting.exists()
    deliver(place.tracker, run_id, "key", storage)
    assert not waiting.exists()
    assert place.tracker.tags(run_id)[MODEL_TAG] == f"models:/{NAME}/1"
    found = download(place.settings.tracking, f"models:/{NAME}@best", place.folder / "here")
    assert (found / "text").read_text() == "key says "


def test_a_server_keeps_the_files(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        place = Place(tmp_path, server.uri, None)
        assert place.add("key", 70.0) == f"models:/{NAME}/1"
        found = download(server.uri, f"models:/{NAME}@best", tmp_path / "here")
        assert (found / "text").read_text() == "key says "
    finally:
        server.kill()


def test_artifacts_in_s3_without_a_server(tmp_path: Path, empty_store: Path, s3_environment: str) -> None:
    shutil.copy(empty_store, tmp_path)
    place = Place(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", f"s3://{s3_environment}/artifacts")
    assert place.add("key", 70.0) == f"models:/{NAME}/1"
    (version,) = place.versions().values()
    assert version.source.startswith(f"s3://{s3_environment}/artifacts/")
    found = download(place.settings.tracking, f"models:/{NAME}/1", tmp_path / "here")
    assert (found / "text").read_text() == "key says "


def test_mlflow_loads_what_was_registered(place: Place) -> None:
    import mlflow.pyfunc
    import pandas

    place.add("key", 70.0)
    (version,) = place.versions().values()
    model = mlflow.pyfunc.load_model(version.source)
    assert model.predict(pandas.DataFrame({"word": ["yes", "no"]})) == ["key says yes", "key says no"]
    facts = model.metadata.metadata
    assert (facts["colour"], facts["key"], facts["scores"]) == ("red", "key", {"val/mIoU": 70.0})
    assert model.metadata.run_id == version.run_id
    example = json.loads((Path(version.source) / "input_example.json").read_text())
    assert example["data"] == [["a"]]


@pytest.mark.parametrize("uri", ["models:/nothing@best", f"models:/{NAME}/7", "models:/a/b/c", "models:/a@b@c"])
def test_a_model_that_is_not_there(place: Place, uri: str, tmp_path: Path) -> None:
    place.tracker.check()
    with pytest.raises(UsageError, match=r"models:/") as caught:
        download(place.settings.tracking, uri, tmp_path / "here")
    assert "\n" not in str(caught.value)


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MLflow store"):
        download(f"sqlite:///{tmp_path}/mlflow.db", f"models:/{NAME}@best", tmp_path / "here")
    assert not list(tmp_path.iterdir())


def test_names_are_legal_and_say_the_benchmark() -> None:
    assert model_name("hrnet", "fcn_hr18_4xb2-40k_cityscapes-512x1024") == (
        "hrnet.fcn_hr18_4xb2-40k_cityscapes-512x1024"
    )
