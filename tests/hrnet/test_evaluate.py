"""Evaluation over a split and of a checkpoint: scores, pictures, and nothing computed twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet.catalogue import Recipe
from hrnet.data.shards import open_dataset
from hrnet.evaluation.confusion import ConfusionMatrix
from hrnet.evaluation.inference import segment
from hrnet.evaluation.run import drain, evaluate, evaluate_split
from hrnet.events import Event
from hrnet.model.segmentor import build_model
from hrnet.training.gang import Gang
from hrnet.training.loop import train
from hrnet.training.state import STATE_FILE
from hrnet.workload import evaluate_checkpoint


@pytest.fixture(scope="module")
def short(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.with_overrides({"max_iters": "2", "val_interval": "2", "checkpoint_interval": "2"})


@pytest.fixture(scope="module")
def checkpoint(short: Recipe, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Event]:
    """The folder of a short training's last checkpoint, and its last validation."""
    folder, validated = tmp_path_factory.mktemp("checkpoint"), None
    for event in train(short, open_dataset(tiny_data), seed=5):
        if event.save is not None:
            event.save(folder)
        validated = event if event.kind == "validated" else validated
    assert validated is not None
    return folder, validated


def _names(data: Path) -> tuple[str, ...]:
    return tuple(open_dataset(data).split("val").names)


def test_scores_equal_those_counted_image_by_image(short: Recipe, tiny_data: Path) -> None:
    model, data = build_model(short.width, short.num_classes, seed=1).eval(), open_dataset(tiny_data)
    by_hand = ConfusionMatrix(short.num_classes)
    for index in range(3):
        sample = data.split("val")[index]
        by_hand.update(segment(model, sample.image, short), sample.label)
    scores = evaluate(model, data, short)
    assert scores.mIoU == by_hand.scores().mIoU
    np.testing.assert_array_equal(scores.iou, by_hand.scores().iou)


def test_val_limit_and_progress(short: Recipe, tiny_data: Path) -> None:
    model, split = build_model(short.width, short.num_classes, seed=1), open_dataset(tiny_data).split("val")
    limited = short.with_overrides({"val_limit": "2"})
    events = list(evaluate_split(model, split, limited, Gang.current()))
    assert [(event.step, event.total) for event in events] == [(1, 2), (2, 2)]
    assert model.training
    matrix = drain(evaluate_split(model, split, limited, Gang.current()))
    assert matrix.counts().sum() == sum(int((split[i].label != 255).sum()) for i in range(2))


def test_a_checkpoint_keeps_its_validation(checkpoint: tuple[Path, Event], short: Recipe, tiny_data: Path) -> None:
    folder, validated = checkpoint
    events = list(evaluate_checkpoint(short, str(tiny_data), folder, cpus=1))
    assert [event.kind for event in events] == ["validated"]
    assert events[-1].metrics == validated.metrics
    pictures = [f"eval/overlays/{i:05d}_{name.replace('/', '_')}.png" for i, name in enumerate(_names(tiny_data))]
    named = {path for path in events[-1].artifacts if not path.startswith(("eval/best/", "eval/worst/"))}
    assert named == {
        "eval/confusion.json", "eval/confusion.png", "eval/per_class_iou.json", "eval/per_class.table.json",
        "eval/images.json", *pictures,
    }  # fmt: skip
    scores = json.loads(events[-1].artifacts["eval/images.json"])
    assert [score["name"] for score in scores] == list(_names(tiny_data))
    (best,) = (path for path in events[-1].artifacts if path.startswith("eval/best/"))
    assert max(scores, key=lambda score: score["mIoU"])["name"].replace("/", "_") in best
    counts = json.loads(events[-1].artifacts["eval/confusion.json"])
    assert np.trace(counts["pixels"]) / np.sum(counts["pixels"]) == pytest.approx(validated.metrics["val/aAcc"] / 100)
    table = json.loads(events[-1].artifacts["eval/per_class_iou.json"])
    assert table["mIoU"] == pytest.approx(validated.metrics["val/mIoU"])
    assert [entry["name"] for entry in table["classes"]][:2] == ["road", "sidewalk"]


def test_a_checkpoint_without_its_validation_is_evaluated(
    checkpoint: tuple[Path, Event], short: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    folder, validated = checkpoint
    content = torch.load(folder / STATE_FILE, weights_only=True)
    content["progress"]["validated"] = 1
    torch.save(content, tmp_path / STATE_FILE)
    events = list(evaluate_checkpoint(short, str(tiny_data), tmp_path, cpus=1))
    assert [event.kind for event in events] == ["progress"] * 3 + ["validated"]
    assert events[-1].metrics == pytest.approx(dict(validated.metrics))


def test_multi_scale_and_flip_has_a_score_of_its_own(
    checkpoint: tuple[Path, Event], short: Recipe, tiny_data: Path
) -> None:
    both = short.with_overrides({"ms_flip": "true", "val_limit": "1"})
    *_, last = evaluate_checkpoint(both, str(tiny_data), checkpoint[0], cpus=1)
    assert set(last.metrics) == {"val/mIoU", "val/mAcc", "val/aAcc", "val/mIoU_ms_flip"}


def test_a_trial_measures_its_speed_at_the_end(checkpoint: tuple[Path, Event], short: Recipe, tiny_data: Path) -> None:
    (last,) = evaluate_checkpoint(short.with_overrides({"speed_images": "3"}), str(tiny_data), checkpoint[0], cpus=1)
    facts = json.loads(last.artifacts["eval/speed.json"])
    assert facts["fps"] == last.metrics["speed/fps"] > 0
    assert facts["fps_conditions"]["timed_images"] == 2
    assert facts["fps_conditions"]["original_sizes"] == ["64x128"]
    assert facts["train_mem_gb"] is None, "it trained on a CPU"
    assert "speed/train_mem_gb" not in last.metrics


def test_training_memory_of_the_checkpoint_is_told(
    checkpoint: tuple[Path, Event], short: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint[0] / STATE_FILE, weights_only=True)
    content["progress"]["memory"] = 3 << 29
    torch.save(content, tmp_path / STATE_FILE)
    (last,) = evaluate_checkpoint(short, str(tiny_data), tmp_path, cpus=1)
    assert last.metrics["speed/train_mem_gb"] == 1.5
    facts = json.loads(last.artifacts["eval/speed.json"])
    assert facts["train_mem_gb"] == 1.5
    assert facts["train_mem_conditions"]["batch"] == 4
    assert facts["fps"] is None
