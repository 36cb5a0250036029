"""A small drawn data set and a recipe that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrnet.catalogue import Recipe, recipe
from hrnet.data.prepare.run import prepare
from hrnet.data.synthetic import synthesise

TINY = {
    "pretrained": "none",
    "crop": "32x64",
    "train_scale": "128x64",
    "test_scale": "128x64",
    "batch_size": "4",
    "max_iters": "20",
    "val_interval": "20",
    "checkpoint_interval": "7",
    "ms_flip": "false",
    "speed_images": "0",
}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared synthetic Cityscapes: 8 training and 3 validation images of 64x128."""
    folder = tmp_path_factory.mktemp("tiny")
    synthesise("cityscapes", folder / "native", train=8, val=3, size=(64, 128), seed=3)
    prepare(folder / "native", folder / "cityscapes", dataset="cityscapes", partial=True)
    return folder / "cityscapes"


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """W18-Small on 32x64 crops, 20 iterations of 4 images, logging every iteration."""
    return recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides({**TINY, "log_interval": "1"})
