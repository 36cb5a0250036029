"""Which validations and images are pictured, and that the pictures leave the model as it was."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hrnet.catalogue import Recipe, recipes
from hrnet.data.shards import open_dataset
from hrnet.evaluation.pictures import POINTS, extreme_pictures, is_pictured, progress_pictures
from hrnet.model.segmentor import build_model

CPU = torch.device("cpu")


def _points(recipe: Recipe) -> list[int]:
    validations = [*range(recipe.val_interval, recipe.max_iters, recipe.val_interval), recipe.max_iters]
    return [step for step in validations if is_pictured(step, recipe)]


@pytest.mark.parametrize(("iterations", "interval"), [(40, 1), (20, 20), (23, 7), (1000, 3), (10, 1), (11, 1)])
def test_pictures_are_few_and_the_last_is_there(tiny_recipe: Recipe, iterations: int, interval: int) -> None:
    recipe = tiny_recipe.with_overrides({"max_iters": str(iterations), "val_interval": str(interval)})
    points = _points(recipe)
    assert len(points) == min(POINTS, -(-iterations // interval))
    assert points[-1] == iterations


def test_every_validation_of_a_published_schedule_is_pictured() -> None:
    for recipe in recipes():
        assert len(_points(recipe)) == recipe.max_iters // recipe.val_interval <= POINTS


def test_pictures_change_nothing_of_a_training(tiny_recipe: Recipe, tiny_data: Path) -> None:
    model, data = build_model(tiny_recipe.width, tiny_recipe.num_classes, seed=1), open_dataset(tiny_data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    pictures = progress_pictures(model, data.split("val"), 2, tiny_recipe, data.card, CPU)
    assert len(pictures) == 2
    for png in pictures.values():
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[1] == 2 * 128 + 8, "two panels of the small images side by side"
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_an_image_without_labels_is_neither_best_nor_worst(tiny_recipe: Recipe, tiny_data: Path) -> None:
    model, data = build_model(tiny_recipe.width, tiny_recipe.num_classes, seed=1), open_dataset(tiny_data)
    scores = torch.tensor([30.0, float("nan"), 10.0], dtype=torch.float64)
    made = extreme_pictures(model, data.split("val"), scores, tiny_recipe, data.card, CPU)
    assert [entry["mIoU"] for entry in json.loads(made["eval/images.json"])] == [30.0, None, 10.0]
    pictures = sorted(path for path in made if path.endswith(".png"))
    assert [path.rpartition("_")[0].split("_")[0] for path in pictures] == ["eval/best/00000", "eval/worst/00002"]
