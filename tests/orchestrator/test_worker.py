"""What a worker does with wishes and failures: one worker in this process, as Ray Train runs it without a cluster."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.checkpoints import CheckpointStore
from orchestrator.ledger import Ledger
from orchestrator.registry import MODEL_TAG, download
from orchestrator.runs import deliver
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.undelivered import Undelivered
from orchestrator.worker import Assignment, train_on_worker
from orchestrator.workload import Spec
from tests.integration.children import wait_for
from tests.orchestrator.fake import FakeEvent, FakeWorkload
from tests.orchestrator.packaging import PackagingWorkload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Diverged(ValueError):
    failure = "diverged"
    evidence: ClassVar = {"step": 3, "losses": [1.0, None]}


class Diverging(FakeWorkload):
    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[FakeEvent, str | None, None]:
        yield FakeEvent(kind="step", step=3, total=8)
        raise Diverged("the loss is nan at iteration 3")


def _assignment(folder: Path, workload: FakeWorkload, **overrides: str) -> Assignment:
    settings = make_settings(storage=f"{folder}/results", benchmark="bench", environment={})
    tracker = Tracker(settings.tracking, "bench", artifacts=settings.artifacts)
    tracker.check()
    run_id = tracker.start_run("k", "cell", tags={}, params={})
    lease = Ledger(Storage(settings.storage)).claim("k", "me")
    spec = workload.resolve(workload.cells()[0], overrides, seed=0, data="data")
    return Assignment(
        spec=spec, key="k", settings=settings, run_id=run_id, start_ms=tracker.start_ms(run_id), workers=1, cpus=1,
        owner="me", lease=lease or 0,
    )  # fmt: skip


def _work(workload: FakeWorkload, job: Assignment, folder: Path) -> Any:
    """Run the one worker; Ray Train's local mode starts no Ray."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    make: Any = TorchTrainer
    trainer = make(
        lambda: train_on_worker(workload, job),
        scaling_config=ScalingConfig(num_workers=0, use_gpu=False),
        run_config=RunConfig(name="local", storage_path=str(folder / "ray")),
    )
    return trainer.fit().return_value


def test_a_stop_saves_the_very_step(tmp_path: Path) -> None:
    workload = FakeWorkload()
    job = _assignment(tmp_path, workload, steps="400", interval="100", sleep="0.02")
    storage = Storage(job.settings.storage)
    ledger = Ledger(storage)

    def ask() -> None:
        wait_for(lambda: (ledger.progress("k") or {}).get("phase") == "training", 60, "training")
        ledger.ask_stop("k", job.lease)

    asking = threading.Thread(target=ask)
    asking.start()
    end = _work(workload, job, tmp_path)
    asking.join()
    assert end["end"] == "stopped"
    step = CheckpointStore(storage, "k").latest_step()
    assert step is not None
    assert 0 < step < 400
    log = storage.read_bytes("trials/k/logs/rank0.log").decode()
    assert f"stops at step {step}, as was asked for, with a checkpoint of it" in log
    assert (ledger.progress("k") or {})["attempt"] == 1


def test_a_gang_that_makes_way_saves_the_very_step(tmp_path: Path) -> None:
    workload = FakeWorkload()
    job = _assignment(tmp_path, workload, steps="400", interval="100", sleep="0.02")
    job = dataclasses.replace(job, may_grow=True)
    storage = Storage(job.settings.storage)
    ledger = Ledger(storage)

    def ask() -> None:
        wait_for(lambda: (ledger.progress("k") or {}).get("phase") == "training", 60, "training")
        ledger.ask_regroup("k", job.lease, 1)

    asking = threading.Thread(target=ask)
    asking.start()
    end = _work(workload, job, tmp_path)
    asking.join()
    assert end["end"] == "regrouped"
    step = CheckpointStore(storage, "k").latest_step()
    log = storage.read_bytes("trials/k/logs/rank0.log").decode()
    assert f"stops at step {step}, as there is room for more workers, with a checkpoint of it" in log
    tracker = Tracker(job.settings.tracking, "bench", artifacts=job.settings.artifacts)
    run = tracker.find("k")
    assert run is not None
    assert run.tags["hrgrid.workers"] == "1"


def test_a_divergence_leaves_its_evidence(tmp_path: Path) -> None:
    workload = Diverging()
    job = _assignment(tmp_path, workload)
    with pytest.raises(Exception, match="the loss is nan at iteration 3"):
        _work(workload, job, tmp_path)
    evidence = Storage(job.settings.storage).read_bytes("trials/k/evidence/diverged.json")
    assert json.loads(evidence) == Diverged.evidence


def test_a_model_that_could_not_be_registered_waits_in_storage(tmp_path: Path) -> None:
    workload = PackagingWorkload({"val/mIoU": 60.0})
    job = _assignment(tmp_path, workload)
    storage = Storage(job.settings.storage)
    in_the_way = Path(job.settings.artifacts or "") / job.run_id / "artifacts" / "model"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the folder should be")
    assert _work(workload, job, tmp_path)["end"] == "finished"
    waiting = Undelivered(storage, "k")
    assert waiting.exists()
    tracker = Tracker(job.settings.tracking, "bench", artifacts=job.settings.artifacts)
    assert MODEL_TAG not in tracker.tags(job.run_id)
    in_the_way.unlink()
    deliver(tracker, job.run_id, "k", storage)
    assert not waiting.exists()
    uri = tracker.tags(job.run_id)[MODEL_TAG]
    assert uri == f"models:/bench.{job.spec.cell.name}/1"
    (best,) = [step for step in CheckpointStore(storage, "k").steps() if _is_best(storage, step)][-1:]
    kept = json.loads((download(job.settings.tracking, uri, tmp_path / "here") / "text").read_text())
    assert kept["step"] == best


def test_models_may_be_left_out(tmp_path: Path) -> None:
    workload = PackagingWorkload({"val/mIoU": 60.0})
    job = dataclasses.replace(_assignment(tmp_path, workload), models=False)
    assert _work(workload, job, tmp_path)["end"] == "finished"
    tracker = Tracker(job.settings.tracking, "bench", artifacts=job.settings.artifacts)
    assert "checkpoints/best/state.json" in tracker.artifact_names(job.run_id)
    assert not tracker.artifact_names(job.run_id, "model")
    assert MODEL_TAG not in tracker.tags(job.run_id)


def _is_best(storage: Storage, step: int) -> bool:
    return bool(json.loads(storage.read_bytes(f"trials/k/checkpoints/{step:08d}/manifest.json"))["best"])
